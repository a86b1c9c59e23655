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
            counts, edges = torch.histogram(finite, bins, range=(low, high))
            pairs = zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)
            rows = [(left, right, int(count)) for left, right, count in pairs]
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
