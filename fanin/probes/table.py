"""Rows of the `layers` table, gathered column by column."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

WHOLE_SET = -1  # the `image` of a mean over the probe set
WHOLE_NET = -1  # the `layer` of a number that belongs to no one layer


@dataclass
class LayerTable:
    """Measured numbers of one probe: columns of equal length, for the chosen single images."""

    images: tuple[int, ...]
    columns: dict[str, list[Any]] = field(
        default_factory=lambda: {
            name: [] for name in ("image", "layer", "layer_name", "quantity", "value")
        }
    )

    def add(self, layer: int, name: str, quantity: str, value: float, image: int) -> None:
        """Add one number."""
        row = (image, layer, name, quantity, value)
        for column, entry in zip(self.columns.values(), row, strict=True):
            column.append(entry)

    def add_per_image(self, layer: int, name: str, quantity: str, values: Tensor) -> None:
        """Add the chosen images' numbers, and the mean over the whole probe set."""
        listed = values.tolist()
        for image in self.images:
            self.add(layer, name, quantity, listed[image], image)
        self.add(layer, name, quantity, float(values.mean()), WHOLE_SET)

    def add_for_set(self, layer: int, name: str, quantity: str, value: float) -> None:
        """Add a number that only the whole probe set has."""
        self.add(layer, name, quantity, value, WHOLE_SET)


def stack(tables: Iterable[tuple[dict[str, list[Any]], dict[str, Any]]]) -> dict[str, list[Any]]:
    """Join columns, each table with constant columns of its own (draw, step).

    >>> stack([({"value": [1.0, 2.0]}, {"draw": 0}), ({"value": [3.0]}, {"draw": 1})])
    {'draw': [0, 0, 1], 'value': [1.0, 2.0, 3.0]}
    """
    joined: dict[str, list[Any]] = {}
    for columns, constants in tables:
        length = len(next(iter(columns.values())))
        for name, value in constants.items():
            joined.setdefault(name, []).extend([value] * length)
        for name, values in columns.items():
            joined.setdefault(name, []).extend(values)
    return joined
