"""Result of a cell: its row, and its columns of the other tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Columns = dict[str, list[Any]]


@dataclass(frozen=True)
class CellResult:
    """One cell's rows: `row` for the table `cells`, `tables` with the columns of the others."""

    row: dict[str, Any]
    tables: dict[str, Columns]
