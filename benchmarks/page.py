"""Output of benchmarks to the terminal and to docs/appendix/performance.md."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine, versions
from benchmarks.measure import ROOT
from fanin.errors import FaninError

PAGE = ROOT / "docs" / "appendix" / "performance.md"


@dataclass(frozen=True)
class Section:
    """A table with a title and remarks."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunInfo:
    """Command, date and machine of a run."""

    command: str
    lines: tuple[str, ...]


def run_info(module: str) -> RunInfo:
    """Return the run info of this process. Call this before measuring, while the load is low.

    Parameters
    ----------
    module
        Name of the benchmark's module, as in `python -m MODULE`.
    """
    arguments = [text for text in sys.argv[1:] if text != "--write"]
    day = datetime.now(UTC).date().isoformat()
    return RunInfo(
        shlex.join(["python", "-m", module, *arguments]), (f"{day}: {machine()}", versions())
    )


def show(console: Console, section: Section) -> None:
    """Print a section."""
    table = Table(title=section.title, title_justify="left")
    for number, column in enumerate(section.columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    for row in section.rows:
        table.add_row(*row)
    console.print(table)
    for remark in section.remarks:
        console.print(remark, highlight=False, markup=False)
    console.print()


def write(name: str, info: RunInfo, sections: Sequence[Section], path: Path = PAGE) -> None:
    """Replace the text between a benchmark's two markers in the page by sections.

    Raises
    ------
    FaninError
        The page has no such markers.
    """
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    before, begin_marker, rest = path.read_text().partition(begin)
    _, end_marker, after = rest.partition(end)
    if not (begin_marker and end_marker):
        raise FaninError(f"{path}: add the lines {begin.strip()} and {end}")
    header = [f"Measured by `{info.command}`, {info.lines[0]};", f"{info.lines[1]}."]
    text = "\n\n".join(["\n".join(header), *map(_markdown, sections)])
    path.write_text(f"{before}{begin}\n{text}\n\n{end}{after}")


def _markdown(section: Section) -> str:
    alignment = ["---", *["---:"] * (len(section.columns) - 1)]
    lines = ["| " + " | ".join(row) + " |" for row in (section.columns, alignment, *section.rows)]
    return "\n\n".join([f"### {section.title}", "\n".join(lines), *section.remarks])
