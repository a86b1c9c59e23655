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

    The matrix of a convolution has C_out rows and C_in * taps columns, as in
    `torch.nn.init.orthogonal_` (taps: number of kernel elements). Each group has its own
    independent matrix, with C_out / groups rows and C_in / groups * taps columns. The rows are
    orthonormal if there are fewer rows than columns, otherwise the columns are. So E[w^2] = 1 /
    max(rows, columns).

    Examples
    --------
    >>> Orthogonal().moments(WeightShape(16, 8, kernel=(3, 3)))
    Moments(mean=0.0, var=0.013888888888888888)
    """

    def moments(self, weight: WeightShape) -> Moments:
        return Moments(mean=0.0, var=1 / max(weight.out_features // weight.groups, weight.fan_in))

    def sample(
        self, weight: WeightShape, generator: torch.Generator
    ) -> Float64[Tensor, "out in *kernel"]:
        rows = weight.out_features // weight.groups
        matrices = _orthogonal(weight.groups, rows, weight.fan_in, generator)
        return matrices.reshape(weight.shape)


@dataclass(frozen=True)
class DeltaOrthogonal:
    """Orthogonal matrix at the kernel's centre, 0 elsewhere (Xiao et al. 2018, section 2.4).

    Such a layer has no border effects. The centre is tap k//2 along each axis; for an even kernel
    that is the tap after the middle. Xiao et al. require C_in <= C_out, which keeps lengths; with
    more inputs than outputs the rows are orthonormal instead of the columns. A linear layer has one
    tap, so there it is the same as `Orthogonal`.

    Examples
    --------
    >>> DeltaOrthogonal().moments(WeightShape(16, 8, kernel=(3,))).var
    tensor([0.0000, 0.0625, 0.0000], dtype=torch.float64)
    """

    def moments(self, weight: WeightShape) -> Moments:
        rows, columns = weight.out_features // weight.groups, weight.in_features // weight.groups
        if not weight.kernel:
            return Moments(mean=0.0, var=1 / max(rows, columns))
        var = torch.zeros(weight.kernel, dtype=torch.float64)
        var[_centre(weight)] = 1 / max(rows, columns)
        return Moments(mean=0.0, var=var)

    def sample(
        self, weight: WeightShape, generator: torch.Generator
    ) -> Float64[Tensor, "out in *kernel"]:
        rows, columns = weight.out_features // weight.groups, weight.in_features // weight.groups
        matrices = _orthogonal(weight.groups, rows, columns, generator)
        sampled = torch.zeros(weight.shape, dtype=torch.float64)
        at_centre: tuple[slice | int, ...] = (slice(None), slice(None), *_centre(weight))
        sampled[at_centre] = matrices.reshape(-1, columns)
        return sampled


def _centre(weight: WeightShape) -> tuple[int, ...]:
    return tuple(size // 2 for size in weight.kernel)


def _orthogonal(
    groups: int, rows: int, columns: int, generator: torch.Generator
) -> Float64[Tensor, "group row column"]:
    tall = (groups, max(rows, columns), min(rows, columns))
    z = torch.randn(tall, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(z)
    # The sign of each column of q depends on the library. With a positive diagonal of r, q is
    # uniform over all such matrices (Mezzadri 2007) and E[w] = 0.
    diagonal = r.diagonal(dim1=-2, dim2=-1)
    q = q * torch.where(diagonal < 0, -1.0, 1.0)[:, None, :]
    return q if rows >= columns else q.mT
