"""`Taps.sum_covariances` for maps that keep their size: by shifting, many times as fast."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.theory.field.geometry import Taps

Slices = tuple[slice, slice]


@dataclass(frozen=True)
class Shift:
    """A tap that reads, everywhere in a box of the map, the point at one distance."""

    to: Slices
    source: Slices

    @classmethod
    def of(cls, reads: Tensor, positions: tuple[int, int]) -> Shift | None:
        """The tap with this column of the reading table of one map; None if it is no shift.

        Examples
        --------
        >>> above = torch.tensor([0, 0, 1, 2])  # each point of a 2x2 map reads the one above it
        >>> Shift.of(above, (2, 2)).source
        (slice(0, 1, None), slice(0, 2, None))
        """
        read = (reads > 0).reshape(positions)
        rows, columns = read.any(1).nonzero().flatten(), read.any(0).nonzero().flatten()
        if len(rows) == 0:
            return None
        top, left = int(rows[0]), int(columns[0])
        height, width = len(rows), len(columns)
        first = int(reads.reshape(positions)[top, left]) - 1
        above, before = divmod(first, positions[1])
        to = slice(top, top + height), slice(left, left + width)
        source = slice(above, above + height), slice(before, before + width)
        points = 1 + torch.arange(reads.numel()).reshape(positions)
        if points[source].shape != (height, width) or int(read.sum()) != height * width:
            return None
        return (
            cls(to, source) if torch.equal(reads.reshape(positions)[to], points[source]) else None
        )


def sum_covariances(
    taps: Taps, forms: Float[Tensor, "target point point"], var: Float[Tensor, " tap"]
) -> Float[Tensor, "target out out"]:
    """As `Taps.sum_covariances`."""
    positions = taps.positions
    size = int(torch.Size(positions).numel())
    images = len(taps.reads) // size
    if taps.whole or len(positions) != 2 or taps.n_inputs != len(taps.reads):
        return taps.sum_covariances(forms, var)
    shape = (positions[0], positions[1])
    shifts = [Shift.of(tap, shape) for tap in taps.reads[:size].T]
    maps = forms.reshape(len(forms), images, *positions, images, *positions)
    total = torch.zeros_like(maps)
    for shift, variance in zip(shifts, var.tolist(), strict=True):
        if shift is None:
            return taps.sum_covariances(forms, var)
        (rows, columns), (above, before) = shift.to, shift.source
        total[:, :, rows, columns, :, rows, columns].add_(
            maps[:, :, above, before, :, above, before], alpha=variance
        )
    return total.reshape(forms.shape)
