"""Histograms of what layers make and receive."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

COLUMNS = ("layer", "layer_name", "quantity", "left", "right", "count")


def histogram(values: Tensor, bins: int) -> list[tuple[float, float, int]]:
    """Equal bins between the finite extremes: (left, right, count).

    Values that are not finite have bins of their own, with left = right = inf, -inf or NaN, so the
    counts always add up to the number of values.
    """
    flat = values.detach().double().flatten().cpu()
    finite = flat[flat.isfinite()]
    rows = []
    if len(finite):
        low, high = float(finite.min()), float(finite.max())
        if low == high:
            rows = [(low, high, len(finite))]
        else:
            # Not torch.histogram: it loses values where high - low overflows.
            share = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
            edges = low * (1 - share) + high * share
            places = torch.bucketize(finite, edges[1:-1], right=True)
            counts = torch.bincount(places, minlength=bins).tolist()
            rows = list(zip(edges[:-1].tolist(), edges[1:].tolist(), counts, strict=True))
    for odd, found in (
        (float("inf"), flat == float("inf")),
        (float("-inf"), flat == float("-inf")),
        (float("nan"), flat.isnan()),
    ):
        if found.any():
            rows.append((odd, odd, int(found.sum())))
    return rows


def add_histogram(
    columns: dict[str, list[Any]], layer: int, name: str, quantity: str, values: Tensor, bins: int
) -> None:
    """Append one histogram to the columns of the `histograms` table."""
    for left, right, count in histogram(values, bins):
        row = (layer, name, quantity, left, right, count)
        for column, entry in zip(COLUMNS, row, strict=True):
            columns[column].append(entry)
