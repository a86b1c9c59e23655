"""A column of the table of cells, and its values as a page holds them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes
    ----------
    key
        As in the `cells` table.
    kind
        `number` or `text`.
    values
        One a cell: a number, a text, or None where there is none. What JSON has no number for
        (infinities, NaN) is the text `inf`, `-inf` or `nan`.
    decimals
        How many are shown; None: all there are.
    role
        `varies`, `outcome`, `metric`, `ended`, `where` or `id`.
    """

    key: str
    kind: str
    values: list[Any]
    decimals: int | None = None
    role: str = "varies"

    def shown(self, row: int) -> str:
        """A value as the page shows it."""
        value = self.values[row]
        if value is None:
            return "–"
        if isinstance(value, str):
            return value
        if self.decimals is None:
            return f"{value:.15g}"
        if value and not 1e-3 <= abs(value) < 1e5:
            return f"{value:.2e}"
        return f"{value:.{self.decimals}f}"


def plain(value: Any) -> Any:
    """What JSON can hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or (isinstance(value, int | float | str) and not isinstance(value, bool)):
        return value
    return word(value)


def word(value: Any) -> str:
    """A value as labels have it."""
    return "null" if value is None else str(value)


def kind_of(values: Sequence[Any]) -> str:
    there = [value for value in values if value is not None]
    numbers = all(not isinstance(v, str) or v in ("inf", "-inf", "nan") for v in there)
    return "number" if there and numbers else "text"
