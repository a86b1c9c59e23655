"""Markdown tables, and the checks before the numbers of a sweep are published."""

from __future__ import annotations

from analysis.figures import registered
from analysis.figures.study import launch_record, read_planned_cells
from analysis.load import Results
from fanin.errors import FaninError


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """Format a Markdown table: first column left-aligned, the others right-aligned.

    Examples
    --------
    >>> print(markdown_table(["layer", "q"], [["conv1", "1.0"]]))
    | layer | q |
    | --- | ---: |
    | conv1 | 1.0 |
    """
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
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
