"""Pages whose numbers a command writes between two marks, and the tables that stand there."""

from __future__ import annotations

import os
from pathlib import Path

from analysis.figures.study import Study, launched, study_of
from analysis.load import Results
from fanin.errors import FaninError

HOLDS = {True: "yes", False: "**no**", None: ""}


def write_block(page: Path, name: str, text: str) -> None:
    """Replace what stands between a page's two marks of that name.

    The marks are lines `<!-- begin NAME` (which may go on) and `<!-- end NAME -->`.

    Raises
    ------
    FaninError
        There is no such page, or it lacks the marks.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     page = Path(folder) / "page.md"
    ...     _ = page.write_text("By hand.\\n<!-- begin sums -->\\nold\\n<!-- end sums -->\\n")
    ...     write_block(page, "sums", "1 + 1 = 2")
    ...     print(page.read_text(), end="")
    By hand.
    <!-- begin sums -->
    <BLANKLINE>
    1 + 1 = 2
    <BLANKLINE>
    <!-- end sums -->
    """
    lines, begin, end = _marked(page, name)
    kept = [*lines[: begin + 1], "", *text.strip("\n").splitlines(), "", *lines[end:]]
    temporary = page.with_name(f".{page.name}.{os.getpid()}")
    temporary.write_text("\n".join(kept) + "\n")
    temporary.replace(page)


def read_block(page: Path, name: str) -> str:
    """Read the text between a page's two marks of that name.

    Raises
    ------
    FaninError
        As `write_block`.
    """
    lines, begin, end = _marked(page, name)
    return "\n".join(lines[begin + 1 : end]).strip("\n")


def _marked(page: Path, name: str) -> tuple[list[str], int, int]:
    """A page's lines, and at which of them its two marks are."""
    if not page.is_file():
        raise FaninError(f"{page}: no such page; it must exist, with lines '<!-- begin {name} -->'")
    lines = page.read_text().splitlines()
    begin = [i for i, line in enumerate(lines) if line.split()[:3] == ["<!--", "begin", name]]
    end = [i for i, line in enumerate(lines) if line.split() == ["<!--", "end", name, "-->"]]
    if len(begin) != 1 or len(end) != 1 or begin[0] > end[0]:
        raise FaninError(
            f"{page}: expected one line '<!-- begin {name} -->' and, after it, one line "
            f"'<!-- end {name} -->'"
        )
    return lines, begin[0], end[0]


def publish(text: str, page: Path | None, name: str) -> None:
    """Put a text between a page's marks of that name; print it where there is no page.

    Raises
    ------
    FaninError
        As `write_block`.
    """
    if page:
        write_block(page, name, text)
    else:
        print(text)


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown, its first column to the left and the others to the right.

    Examples
    --------
    >>> print(markdown_table(["layer", "q"], [["conv1", "1.0"]]))
    | layer | q |
    | --- | ---: |
    | conv1 | 1.0 |
    """
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def study_or_error(results: Results) -> Study:
    """A sweep's study.

    Raises
    ------
    FaninError
        The sweep has none.
    """
    make = study_of(results)
    if make is None:
        raise FaninError(f"{results.name}: this sweep makes no study (no source in its YAML)")
    return make()


def headline_table(study: Study) -> str:
    """The numbers in Markdown, beside what is claimed."""
    rows = [[h.what, h.theirs, h.ours, HOLDS[h.holds]] for h in study.headlines]
    return markdown_table(["", "claimed", "measured", "holds"], rows)


def how_made(results: Results) -> str:
    """Say how many cells ran at which commit, and the command that runs them."""
    about = launched(results)
    size = "" if about.get("size", "small") == "small" else f" sweep.size={about['size']}"
    return (
        f"{_cells_by_code(results)}: "
        f"`python -m experiments.run -m sweep={about['sweep']}{size}`, then "
        f"`python -m analysis.figures {results.name}`."
    )


def _cells_by_code(results: Results) -> str:
    """Count the cells that each commit ran: a sweep may have been resumed later."""
    counts = results.cells["code"].astype(str).value_counts()
    return " and ".join(f"{count} cells at commit {code}" for code, count in counts.items())
