"""Tables for the terminal and for Markdown pages."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table as RichTable


@dataclass(frozen=True)
class Table:
    """A table with a title and remarks. The first column holds text, the others numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    remarks: tuple[str, ...] = ()


def show(console: Console, table: Table) -> None:
    """Print a table."""
    grid = RichTable(title=table.title, title_justify="left")
    for number, column in enumerate(table.columns):
        grid.add_column(column, justify="left" if number == 0 else "right")
    for row in table.rows:
        grid.add_row(*row)
    console.print(grid)
    for remark in table.remarks:
        console.print(remark, highlight=False, markup=False)
    console.print()


def markdown(table: Table) -> str:
    """Return a table as Markdown: its title (if any), its rows and its remarks."""
    alignment = ["---", *["---:"] * (len(table.columns) - 1)]
    lines = ["| " + " | ".join(row) + " |" for row in (table.columns, alignment, *table.rows)]
    title = [f"### {table.title}"] if table.title else []
    return "\n\n".join([*title, "\n".join(lines), *table.remarks])
