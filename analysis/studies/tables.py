"""Markdown tables, and the checks before the numbers of a sweep are published."""

from __future__ import annotations

import re

from analysis.figures import registered
from analysis.figures.study import launch_record, read_planned_cells
from analysis.load import Results
from fanin.errors import FaninError


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """Format a Markdown table: columns of numbers right-aligned, the first and others left-aligned.

    Examples
    --------
    >>> print(markdown_table(["layer", "q", "verdict"], [["conv1", "1.0", "healthy"]]))
    | layer | q | verdict |
    | --- | ---: | --- |
    | conv1 | 1.0 | healthy |
    """
    columns = (list(zip(*rows, strict=True)) or [()] * len(header))[1:]
    numbers = [all(re.match(r"[-+]?\d|-?$", cell) for cell in column) for column in columns]
    lines = [header, ["---", *("---:" if right else "---" for right in numbers)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def require_complete(results: Results) -> None:
    """Refuse to publish numbers of a sweep that lacks cells or is not the registered one.

    Raises
    ------
    FaninError
        A planned cell has no finished run, or the settings are not those of the sweep's YAML.
    """
    if warning := read_planned_cells(results).warning:
        raise FaninError(f"{results.name}: a summary needs a complete sweep. {warning}")
    if differs := registered.differences(results, launch_record(results)):
        raise FaninError(
            f"{results.name}: a summary needs the registered sweep; this one differs from it in: "
            f"{', '.join(differs)}"
        )
