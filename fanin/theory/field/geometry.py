"""Input points that each output point of a weight layer reads, including padding and stride.

A field's points are the positions of a map, or of several maps side by side when all images share
one field. At each output point, each tap (element of the kernel) reads one input point or the
padding. The table of these points is all that the field needs: moments pass forward along it and
cotangents backward (docs/appendix/derivations.md, 3.1 and 4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from fanin.theory.layer_kind import UnpredictableLayer

Slices = tuple[slice, slice]
Matrix = Float[Tensor, "*field point point"]
Diagonal = Float[Tensor, "*field point"]


@dataclass(frozen=True)
class Taps:
    """Table of the input points that a weight layer reads.

    Attributes
    ----------
    input_index
        1 + the input point that each tap reads at each output point; 0 is zero padding.
    n_inputs
        Number of input points.
    positions
        Shape of the output map, `()` for a linear layer.
    is_linear
        True for a linear layer: one output point per image, which reads the whole map.
    """

    input_index: Int[Tensor, "point tap"]
    n_inputs: int
    positions: tuple[int, ...]
    is_linear: bool

    @classmethod
    def of(
        cls,
        name: str,
        layer: nn.Module,
        positions: tuple[int, ...],
        images_per_field: int,
        channels: int,
    ) -> Taps:
        """Build the table of a layer that reads `channels` maps of shape `positions`.

        Raises
        ------
        UnpredictableLayer
            A linear layer on maps that were not flattened.
        """
        grid = 1 + torch.arange(_size(positions)).reshape(1, 1, *positions)
        if isinstance(layer, _ConvNd):
            input_index, out = _convolution(layer, grid)
        else:
            if layer.in_features != channels * grid.numel():
                raise UnpredictableLayer(
                    name,
                    "linear layer on unflattened maps is not supported; put nn.Flatten() before it",
                )
            input_index, out = grid.reshape(1, -1), ()
        offsets = torch.arange(images_per_field)[:, None, None] * grid.numel()
        joint = torch.where(input_index > 0, input_index + offsets, 0).flatten(0, 1)
        return cls(
            joint, images_per_field * grid.numel(), out, is_linear=isinstance(layer, nn.Linear)
        )

    @property
    def n_taps(self) -> int:
        """Number of weights between one input channel and one output channel."""
        return self.input_index.shape[1]

    def gather(self, x: Float[Tensor, "*field point"]) -> Float[Tensor, "*field out tap"]:
        """Return the value that each tap reads at each output point."""
        return F.pad(x, (1, 0))[..., self.input_index]

    def matrix(self, weight: Float[Tensor, " tap"]) -> Float[Tensor, "out point"]:
        """Return the layer as a matrix, for one input and one output channel."""
        dense = torch.zeros(len(self.input_index), self.n_inputs + 1, dtype=torch.float64)
        dense.scatter_add_(1, self.input_index, weight.expand(self.input_index.shape).clone())
        return dense[:, 1:]

    def sparse_matrix(
        self, weight: Float[Tensor, " tap"], transposed: bool = False
    ) -> Float[Tensor, "row column"]:
        """Return `matrix`, or its transpose, as a sparse tensor."""
        dense = self.matrix(weight)
        return (dense.T if transposed else dense).to_sparse()

    def forward_m2(self, m2: Diagonal, var: Float[Tensor, " tap"]) -> Diagonal:
        """Return the second moment of the pre-activation (docs/appendix/derivations.md, 3.1).

        It is the sum over taps (kernel positions) of `var` times the second moment of the input
        that the tap reads.
        """
        return self.gather(m2) @ var

    def forward_products(self, m2: Matrix, var: Float[Tensor, " tap"]) -> Matrix:
        """Return the products of the pre-activations at pairs of points (derivations.md, 3.2).

        Each is the sum over taps of `var` times the product of the two inputs that the tap reads.
        """
        if self.is_linear:
            images_per_field = len(self.input_index)
            blocks = _image_blocks(m2, images_per_field)
            return var[0] * blocks.diagonal(dim1=-3, dim2=-1).sum(-1)
        shifts = self._shifts
        if shifts is not None:
            return _sum_shifted(shifts, m2, var, self.positions)
        return self.forward_products_by_index(m2, var)

    def forward_products_by_index(self, m2: Matrix, var: Float[Tensor, " tap"]) -> Matrix:
        """Compute `forward_products` without its shortcuts for linear layers and shifts."""
        padded = F.pad(m2, (1, 0, 1, 0))
        total = m2.new_zeros(*m2.shape[:-2], len(self.input_index), len(self.input_index))
        for tap, variance in zip(self.input_index.T, var.tolist(), strict=True):
            if variance:
                total += variance * padded.index_select(-2, tap).index_select(-1, tap)
        return total

    @cached_property
    def _shifts(self) -> list[_Shift] | None:
        # The table of one image is enough: all images of a field are read in the same way.
        map_size = math.prod(self.positions)
        same_size = not self.is_linear and self.n_inputs == len(self.input_index)
        return _find_shifts(self.input_index[:map_size], self.positions) if same_size else None

    def backward_m2(self, m2: Diagonal, var: Float[Tensor, " tap"]) -> Diagonal:
        """Apply the transpose of `forward_m2`."""
        received = m2.new_zeros(*m2.shape[:-1], self.n_inputs + 1)
        sent = m2[..., None] * var
        return received.index_add(-1, self.input_index.flatten(), sent.flatten(-2))[..., 1:]

    def backward_products(self, m2: Matrix, var: Float[Tensor, " tap"]) -> Matrix:
        """Apply the transpose of `forward_products`."""
        if self.is_linear:
            received = m2.new_zeros(*m2.shape[:-2], self.n_inputs, self.n_inputs)
            blocks = _image_blocks(received, len(self.input_index))
            blocks.diagonal(dim1=-3, dim2=-1).add_((var[0] * m2)[..., None])
            return received
        shifts = self._shifts
        if shifts is not None:
            reverse = [_Shift(shift.source, shift.target) for shift in shifts]
            return _sum_shifted(reverse, m2, var, self.positions)
        return self.backward_products_by_index(m2, var)

    def backward_products_by_index(self, m2: Matrix, var: Float[Tensor, " tap"]) -> Matrix:
        """Compute `backward_products` without its shortcuts for linear layers and shifts."""
        leading, n = m2.shape[:-2], self.n_inputs + 1
        received = m2.new_zeros(*leading, n, n)
        for tap, variance in zip(self.input_index.T, var.tolist(), strict=True):
            if variance:
                rows = m2.new_zeros(*leading, n, len(tap)).index_add(-2, tap, variance * m2)
                received.index_add_(-1, tap, rows)
        return received[..., 1:, 1:]

    def gradient_m2(
        self, cotangent: Diagonal, inputs: Diagonal, images_per_field: int
    ) -> Float[Tensor, "*field image"]:
        """Average E[(dL/dw)^2] over kernel positions, for each image (derivations.md, section 4).

        The cotangents of different output positions must be uncorrelated.
        """
        products = cotangent[..., None] * self.gather(inputs)
        return products.unflatten(-2, (images_per_field, -1)).sum((-2, -1)) / self.n_taps

    def gradient_m2_from_products(
        self, cotangent: Matrix, inputs: Matrix, images_per_field: int
    ) -> Float[Tensor, "*field image"]:
        """Average E[(dL/dw)^2] over taps, from correlated cotangents."""
        read = self.forward_products(inputs, inputs.new_ones(self.n_taps))
        blocks = _image_blocks(cotangent * read, images_per_field)
        return blocks.sum((-3, -1)).diagonal(dim1=-2, dim2=-1) / self.n_taps


def _image_blocks(
    pairs: Matrix, images_per_field: int
) -> Float[Tensor, "*field image point image point"]:
    return pairs.unflatten(-1, (images_per_field, -1)).unflatten(-3, (images_per_field, -1))


def _convolution(layer: _ConvNd, grid: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    # Pad a map of indices in the same way as the module pads its input.
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    read = F.pad(grid.double(), layer._reversed_padding_repeated_twice, mode=mode).long()[0, 0]
    for axis, (size, stride, dilation) in enumerate(
        zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)
    ):
        reach = (size - 1) * dilation + 1
        read = read.unfold(axis, reach, stride)[..., ::dilation]
    dimensions = len(layer.kernel_size)
    out = tuple(read.shape[:dimensions])
    return read.reshape(_size(out), -1), out


def _size(positions: tuple[int, ...]) -> int:
    return int(torch.Size(positions).numel())


@dataclass(frozen=True)
class _Shift:
    """A tap that reads the point at a constant offset, everywhere in a box of the map."""

    target: Slices
    source: Slices

    @classmethod
    def of(cls, input_index: Tensor, positions: tuple[int, int]) -> _Shift | None:
        """Return one column of one map's table as a shift; None if its offset is not constant.

        Examples
        --------
        >>> above = torch.tensor([0, 0, 1, 2])  # each point of a 2x2 map reads the one above it
        >>> _Shift.of(above, (2, 2)).source
        (slice(0, 1, None), slice(0, 2, None))
        """
        read = (input_index > 0).reshape(positions)
        rows, columns = read.any(1).nonzero().flatten(), read.any(0).nonzero().flatten()
        if len(rows) == 0:
            return None
        top, left = int(rows[0]), int(columns[0])
        height, width = len(rows), len(columns)
        first = int(input_index.reshape(positions)[top, left]) - 1
        row, column = divmod(first, positions[1])
        target = slice(top, top + height), slice(left, left + width)
        source = slice(row, row + height), slice(column, column + width)
        points = 1 + torch.arange(input_index.numel()).reshape(positions)
        if points[source].shape != (height, width) or int(read.sum()) != height * width:
            return None
        is_shift = torch.equal(input_index.reshape(positions)[target], points[source])
        return cls(target, source) if is_shift else None


def _find_shifts(
    input_index: Int[Tensor, "point tap"], positions: tuple[int, ...]
) -> list[_Shift] | None:
    """Return all taps of one map's table as shifts; None if a tap has no constant offset."""
    if len(positions) != 2:
        return None
    candidates = [_Shift.of(tap, (positions[0], positions[1])) for tap in input_index.T]
    shifts = [shift for shift in candidates if shift is not None]
    return shifts if len(shifts) == len(candidates) else None


def _sum_shifted(
    shifts: Sequence[_Shift],
    m2: Float[Tensor, "*field point point"],
    var: Float[Tensor, " tap"],
    positions: tuple[int, ...],
) -> Float[Tensor, "*field point point"]:
    """Compute `forward_products`, or with reversed shifts `backward_products`, by shifting maps.

    See docs/appendix/derivations.md, 3.2. Input and output have maps of the same size.
    """
    images_per_field = m2.shape[-1] // int(torch.Size(positions).numel())
    maps = m2.reshape(-1, images_per_field, *positions, images_per_field, *positions)
    total = torch.zeros_like(maps)
    for shift, variance in zip(shifts, var.tolist(), strict=True):
        if not variance:
            continue
        (rows, columns), (row, column) = shift.target, shift.source
        total[:, :, rows, columns, :, rows, columns].add_(
            maps[:, :, row, column, :, row, column], alpha=variance
        )
    return total.reshape(m2.shape)
