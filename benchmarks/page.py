"""Output of a benchmark, for the terminal and for docs/appendix/performance.md."""

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
    """A table with a title, and what follows from it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Circumstances:
    """Command, date and machine of a run; taken before anything is measured."""

    command: str
    lines: tuple[str, ...]


def circumstances(module: str) -> Circumstances:
    """Those of this process.

    Parameters
    ----------
    module
        The benchmark's module, as one types it after `python -m`.
    """
    words = [word for word in sys.argv[1:] if word != "--write"]
    day = datetime.now(UTC).date().isoformat()
    return Circumstances(
        shlex.join(["python", "-m", module, *words]), (f"{day}: {machine()}", versions())
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


def write(name: str, known: Circumstances, sections: Sequence[Section], path: Path = PAGE) -> None:
    """Put sections between a benchmark's two markers in the page.

    Raises
    ------
    FaninError
        The page lacks the markers.
    """
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    before, found, rest = path.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise FaninError(f"{path}: lacks the lines {begin.strip()} and {end}")
    about = [f"Measured by `{known.command}`, {known.lines[0]};", f"{known.lines[1]}."]
    text = "\n\n".join(["\n".join(about), *map(_markdown, sections)])
    path.write_text(f"{before}{begin}\n{text}\n\n{end}{after}")


def _markdown(section: Section) -> str:
    aligned = ["---", *["---:"] * (len(section.columns) - 1)]
    lines = ["| " + " | ".join(row) + " |" for row in (section.columns, aligned, *section.rows)]
    return "\n\n".join([f"### {section.title}", "\n".join(lines), *section.remarks])
