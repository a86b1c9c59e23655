"""Orthogonal weights, which keep the length of a vector exactly, not only on average."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from fanin.inits.weight_shape import Moments, WeightShape


@dataclass(frozen=True)
class Orthogonal:
    """Random matrices with orthonormal rows or columns (Saxe et al. 2014).

    The matrix of a convolution is C_out x (C_in/groups taps). The rows are orthonormal if there are
    fewer rows than columns, otherwise the columns are. So E[w^2] = 1 / max(rows, columns). In
    float64, `torch.nn.init.orthogonal_` draws the same values with the same generator.

    Parameters
    ----------
    per_group
        For a grouped convolution. False draws one matrix for all groups, as
        `torch.nn.init.orthogonal_` does. True draws an independent matrix for each group,
        C_out/groups x (C_in/groups taps), so that each group by itself is orthogonal.

    Examples
    --------
    >>> Orthogonal().moments(WeightShape(16, 8, kernel=(3, 3)))
    Moments(mean=0.0, var=0.013888888888888888)
    >>> conv = WeightShape(16, 8, kernel=(1, 1), groups=2)
    >>> Orthogonal().moments(conv).var, Orthogonal(per_group=True).moments(conv).var
    (0.0625, 0.125)
    """

    per_group: bool = False

    def moments(self, weight: WeightShape) -> Moments:
        shape = weight.one_group if self.per_group else weight
        return Moments(mean=0.0, var=1 / max(shape.out_features, shape.fan_in))

    def sample(
        self, weight: WeightShape, generator: torch.Generator
    ) -> Float64[Tensor, "out in *kernel"]:
        matrices, shape = (weight.groups, weight.one_group) if self.per_group else (1, weight)
        sampled = _orthogonal(matrices, shape.out_features, shape.fan_in, generator)
        return sampled.reshape(weight.shape)


@dataclass(frozen=True)
class DeltaOrthogonal:
    """Orthogonal matrix at the kernel's centre, 0 elsewhere (Xiao et al. 2018, section 2.4).

    Such a layer has no border effects. The centre is tap k//2 along each axis; for an even kernel
    that is the tap after the middle. Xiao et al. require C_in <= C_out, which keeps lengths; with
    more inputs than outputs the rows are orthonormal instead of the columns. A linear layer has one
    tap, so there it is the same as `Orthogonal`. Each group of a grouped convolution has its own
    independent matrix, because one matrix for all groups would not keep lengths.

    Examples
    --------
    >>> DeltaOrthogonal().moments(WeightShape(16, 8, kernel=(3,))).var
    tensor([0.0000, 0.0625, 0.0000], dtype=torch.float64)
    """

    def moments(self, weight: WeightShape) -> Moments:
        group = weight.one_group
        centre_var = 1 / max(group.out_features, group.in_features)
        if not weight.kernel:
            return Moments(mean=0.0, var=centre_var)
        var = torch.zeros(weight.kernel, dtype=torch.float64)
        var[_centre(weight)] = centre_var
        return Moments(mean=0.0, var=var)

    def sample(
        self, weight: WeightShape, generator: torch.Generator
    ) -> Float64[Tensor, "out in *kernel"]:
        rows, columns = weight.one_group.out_features, weight.one_group.in_features
        matrices = _orthogonal(weight.groups, rows, columns, generator)
        sampled = torch.zeros(weight.shape, dtype=torch.float64)
        at_centre: tuple[slice | int, ...] = (slice(None), slice(None), *_centre(weight))
        sampled[at_centre] = matrices.reshape(-1, columns)
        return sampled


def _centre(weight: WeightShape) -> tuple[int, ...]:
    return tuple(size // 2 for size in weight.kernel)


def _orthogonal(
    matrices: int, rows: int, columns: int, generator: torch.Generator
) -> Float64[Tensor, "matrix row column"]:
    # In the order of `torch.nn.init.orthogonal_`, so that equal generators give equal values.
    z = torch.randn((matrices, rows, columns), generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(z if rows >= columns else z.mT)
    # The sign of each column of q depends on the library. With a positive diagonal of r, q is
    # uniform over all such matrices (Mezzadri 2007) and E[w] = 0.
    diagonal = r.diagonal(dim1=-2, dim2=-1)
    q = q * torch.where(diagonal < 0, -1.0, 1.0)[:, None, :]
    return q if rows >= columns else q.mT
