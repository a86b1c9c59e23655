"""What a fault did, as a row of docs/appendix/faults.md, and the same command once more."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from sweep_process import Site

from analysis import load
from experiments.config.catalog import config_loader
from experiments.sweep.cli import run_command
from experiments.sweep.store.tables import read_states

Record = Callable[[str, str, str], None]  # a fault, what happened, and what the command did next
PAGE = Path(__file__).parents[3] / "docs" / "appendix" / "faults.md"
HEAD = "| what was done | what happened | the same command again |\n| --- | --- | --- |\n"
TESTS = ("killed", "interrupts", "cells", "disk", "files", "writers", "clock", "code", "configs")


def fault(what: str) -> str:
    """Name a fault that a test brings about; the page lists all that stand in this function."""
    return what


def faults() -> list[str]:
    """Every fault that the tests name, from their text, in the order of the page."""
    texts = [Path(__file__).with_name(f"test_faults_{name}.py").read_text() for name in TESTS]
    nodes = [
        (place, node) for place, text in enumerate(texts) for node in ast.walk(ast.parse(text))
    ]
    found = [
        (place, node.lineno, ast.literal_eval(node.args[0]))
        for place, node in nodes
        if isinstance(node, ast.Call) and ast.unparse(node.func) == fault.__name__
    ]
    return [what for *_, what in sorted(found)]


def listed() -> list[str]:
    """Every fault that the page lists."""
    table = PAGE.read_text().partition(HEAD)[2]
    return [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()]


def write_page(rows: Mapping[str, tuple[str, str]]) -> None:
    """Replace the page's table; what stands above it stays.

    Raises
    ------
    ValueError
        Not all faults have been brought about.
    """
    if missing := [what for what in faults() if what not in rows]:
        raise ValueError(f"{PAGE} is written when all faults have been seen; missing: {missing}")
    above = PAGE.read_text().partition(HEAD)[0]
    lines = (f"| {what} | {' | '.join(rows[what])} |\n" for what in faults())
    PAGE.write_text(above + HEAD + "".join(lines))


def ended(here: Site, status: int) -> str:
    """How a command ended: its exit status, and what the files say of the cells."""
    outcomes = Counter(state.outcome for state in read_states(here.folder).values())
    counted = ", ".join(f"{outcomes[word]} {word}" for word in sorted(outcomes))
    return f"exit {status}; {counted or 'nothing ran'}"


def run_here(here: Site, *words: str) -> int:
    """Run a command in this process, which takes less time; its exit status."""
    kept = [word for word in words if not word.startswith(("runner.workers", "runner.memory_gb"))]
    return run_command(config_loader(), "config", here.overrides(*kept, "runner=inline"))


def again_here(here: Site, *words: str, cells: int) -> str:
    """Run the command again, in this process; every cell is there exactly once."""
    assert run_here(here, *words) == 0
    return _told(here, cells)


def _told(here: Site, cells: int) -> str:
    """Every cell once in every table, and nothing left over; in words."""
    found = load("s", here.results)
    assert sorted(found.cells["init.number"]) == list(range(cells))
    assert set(found.cells["outcome"]) == {"ok"}
    for table in (found.curves, found.layers, found.histograms):
        rows = table.groupby("cell_id", observed=True).size()
        assert (len(rows), rows.nunique()) == (cells, 1)
        keys = [name for name in table.columns if name not in ("value", "count", "right")]
        assert not table.duplicated(keys).any()
    assert_nothing_is_left(here)
    more = int((found.cells["attempt"] > 1).sum())
    return f"exit 0; {cells} ok" + (f", {more} of them at a further attempt" if more else "")


def assert_nothing_is_left(here: Site) -> None:
    """No journal, no launcher's note, no half-written file."""
    assert not list(here.folder.journals.glob("*"))
    assert not here.folder.launcher.exists()
    assert not list(here.folder.root.rglob("*.part"))
