"""Markdown tables, and writing them into a documentation page between two marker lines."""

from __future__ import annotations

import os
from pathlib import Path

from analysis.figures import registered
from analysis.figures.study import Study, launch_record, read_planned_cells, study_factory
from analysis.load import Results
from fanin.commands import command_line
from fanin.errors import FaninError

BOLD = {"no": "**no**"}


def write_block(page: Path, name: str, text: str) -> None:
    r"""Replace the text between a page's two marker lines with this name.

    The markers are a line that starts with `<!-- begin NAME` and a line `<!-- end NAME -->`.

    Raises
    ------
    FaninError
        The page does not exist or does not have exactly one of each marker.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     page = Path(folder) / "page.md"
    ...     _ = page.write_text("By hand.\n<!-- begin sums -->\nold\n<!-- end sums -->\n")
    ...     write_block(page, "sums", "1 + 1 = 2")
    ...     print(page.read_text(), end="")
    By hand.
    <!-- begin sums -->
    <BLANKLINE>
    1 + 1 = 2
    <BLANKLINE>
    <!-- end sums -->
    """
    lines, begin, end = _find_markers(page, name)
    new_lines = [*lines[: begin + 1], "", *text.strip("\n").splitlines(), "", *lines[end:]]
    temporary = page.with_name(f".{page.name}.{os.getpid()}")
    temporary.write_text("\n".join(new_lines) + "\n")
    temporary.replace(page)


def read_block(page: Path, name: str) -> str:
    """Read the text between a page's two marker lines with this name.

    Raises
    ------
    FaninError
        The page does not exist or does not have exactly one of each marker.
    """
    lines, begin, end = _find_markers(page, name)
    return "\n".join(lines[begin + 1 : end]).strip("\n")


def _find_markers(page: Path, name: str) -> tuple[list[str], int, int]:
    """Return a page's lines, and the indices of its two marker lines with this name."""
    if not page.is_file():
        raise FaninError(
            f"{page}: no such page. Create it with the lines '<!-- begin {name} -->' and "
            f"'<!-- end {name} -->'"
        )
    lines = page.read_text().splitlines()
    begin = [i for i, line in enumerate(lines) if line.split()[:3] == ["<!--", "begin", name]]
    end = [i for i, line in enumerate(lines) if line.split() == ["<!--", "end", name, "-->"]]
    if len(begin) != 1 or len(end) != 1 or begin[0] > end[0]:
        raise FaninError(
            f"{page}: expected one line '<!-- begin {name} -->' and, after it, one line "
            f"'<!-- end {name} -->'; the tables are written between them"
        )
    return lines, begin[0], end[0]


def publish(text: str, page: Path | None, name: str) -> None:
    """Write a text between a page's marker lines, or print it if `page` is None.

    Raises
    ------
    FaninError
        The page does not exist or does not have exactly one of each marker.
    """
    if page:
        write_block(page, name, text)
    else:
        print(text)


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
    return markdown_table(["quantity", "claimed", "threshold", "measured", "holds"], rows)


def count_holding(study: Study) -> str:
    """Return a text: the number of decided claims that hold, and the number of undecided claims."""
    tested = [result.holds for result in study.claim_results if result.holds is not None]
    undecided = sum(result.undecided for result in study.claim_results)
    return f"{sum(tested)} of {len(tested)}" + (f", {undecided} undecided" if undecided else "")


def provenance_line(results: Results) -> str:
    """Return the number of cells per commit and the commands that run and draw the sweep."""
    record = launch_record(results)
    size = "" if record.get("size", "small") == "small" else f" sweep.size={record['size']}"
    run = command_line("run", "-m", f"sweep={record['sweep']}")
    return (
        f"{_cells_by_code(results)}: `{run}{size}`, then `{command_line('figures', results.name)}`."
    )


def _cells_by_code(results: Results) -> str:
    """Count the cells per commit; a resumed sweep may have several commits."""
    counts = results.cells["code"].astype(str).value_counts()
    return " and ".join(f"{count} cells at commit {code}" for code, count in counts.items())
