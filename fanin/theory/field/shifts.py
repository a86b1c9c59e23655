"""Covariances through a layer that keeps its maps' size: by shifting, many times as fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

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


def as_shifts(reads: Int[Tensor, "point tap"], positions: tuple[int, ...]) -> list[Shift] | None:
    """All taps of one map's reading table as shifts; None where some tap is none."""
    if len(positions) != 2:
        return None
    found = [Shift.of(tap, (positions[0], positions[1])) for tap in reads.T]
    shifts = [shift for shift in found if shift is not None]
    return shifts if len(shifts) == len(found) else None


def sum_shifted(
    shifts: Sequence[Shift],
    m2: Float[Tensor, "*world point point"],
    var: Float[Tensor, " tap"],
    positions: tuple[int, ...],
) -> Float[Tensor, "*world point point"]:
    """Sum over taps of var times what the pairs of points that are read have (THEORY.md, 3.2)."""
    images = m2.shape[-1] // int(torch.Size(positions).numel())
    maps = m2.reshape(-1, images, *positions, images, *positions)
    total = torch.zeros_like(maps)
    for shift, variance in zip(shifts, var.tolist(), strict=True):
        if not variance:
            continue
        (rows, columns), (above, before) = shift.to, shift.source
        total[:, :, rows, columns, :, rows, columns].add_(
            maps[:, :, above, before, :, above, before], alpha=variance
        )
    return total.reshape(m2.shape)
