"""Markdown tables of studies, and the checks before their numbers are published."""

from __future__ import annotations

from analysis.figures import registered
from analysis.figures.study import Study, launch_record, read_planned_cells, study_factory
from analysis.load import Results
from experiments.sweep.grid import STANDARD
from fanin.commands import command_line
from fanin.errors import FaninError

BOLD = {"contradicted": "**contradicted**"}


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


def require_study(results: Results) -> Study:
    """Compute a sweep's study.

    Raises
    ------
    FaninError
        The sweep's YAML has no `source`.
    """
    compute_study = study_factory(results)
    if compute_study is None:
        raise FaninError(
            f"{results.name}: this sweep has no study, because its YAML has no 'source'. To draw "
            f"its figures: {command_line('figures', results.name)}"
        )
    return compute_study()


def require_complete(results: Results) -> None:
    """Refuse to publish numbers of a sweep that lacks cells or is not the registered one.

    Raises
    ------
    FaninError
        A planned cell has no finished run, or the settings are not those of the sweep's YAML.
    """
    if warning := read_planned_cells(results).warning:
        raise FaninError(f"{results.name}: --write needs a complete sweep. {warning}")
    if differs := registered.differences(results, launch_record(results)):
        raise FaninError(
            f"{results.name}: --write needs the registered sweep; this one differs from it in: "
            f"{', '.join(differs)}"
        )


def claims_table(study: Study) -> str:
    """Format a study's claimed and measured numbers as a Markdown table."""
    rows = [
        [
            result.description,
            result.claimed,
            result.threshold,
            result.measured,
            BOLD.get(result.verdict, result.verdict),
        ]
        for result in study.claim_results
    ]
    return markdown_table(["quantity", "claimed", "threshold", "measured", "verdict"], rows)


def count_holding(study: Study) -> str:
    """Return a text: the number of decided claims that hold, and the number of undecided claims."""
    tested = [result.holds for result in study.claim_results if result.holds is not None]
    undecided = sum(result.undecided for result in study.claim_results)
    return f"{sum(tested)} of {len(tested)}" + (f", {undecided} undecided" if undecided else "")


def provenance_line(results: Results) -> str:
    """Return the number of cells per commit and the commands that run and draw the sweep."""
    record = launch_record(results)
    size = "" if record.get("size", STANDARD) == STANDARD else f" sweep.size={record['size']}"
    run = command_line("run", "-m", f"sweep={record['sweep']}")
    return (
        f"{_cells_by_code(results)}: `{run}{size}`, then `{command_line('figures', results.name)}`."
    )


def _cells_by_code(results: Results) -> str:
    """Count the cells per commit; a resumed sweep may have several commits."""
    counts = results.cells["code"].astype(str).value_counts()
    return " and ".join(f"{count} cells at commit {code}" for code, count in counts.items())
