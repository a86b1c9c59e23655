"""Rows of docs/appendix/faults.md: a fault, its result, and the result of a second run."""

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

Record = Callable[[str, str, str], None]  # a fault, its result, and the result of a second run
PAGE = Path(__file__).parents[3] / "docs" / "appendix" / "faults.md"
HEAD = "| fault | result | when the same command runs again |\n| --- | --- | --- |\n"
TESTS = ("killed", "interrupts", "cells", "disk", "files", "writers", "clock", "code", "configs")


def fault(what: str) -> str:
    """Mark the name of a tested fault. The page lists every call of this function."""
    return what


def faults() -> list[str]:
    """Return all fault names in the sources of the tests, in the order of the page."""
    texts = [Path(__file__).with_name(f"test_faults_{name}.py").read_text() for name in TESTS]
    nodes = [
        (index, node) for index, text in enumerate(texts) for node in ast.walk(ast.parse(text))
    ]
    names = [
        (index, node.lineno, ast.literal_eval(node.args[0]))
        for index, node in nodes
        if isinstance(node, ast.Call) and ast.unparse(node.func) == fault.__name__
    ]
    return [what for *_, what in sorted(names)]


def faults_on_page() -> list[str]:
    """Return all faults that the page lists."""
    table = PAGE.read_text().partition(HEAD)[2]
    return [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()]


def write_page(rows: Mapping[str, tuple[str, str]]) -> None:
    """Replace the page's table, and keep the text above it.

    Raises
    ------
    ValueError
        A fault has not been tested in this run.
    """
    if missing := [what for what in faults() if what not in rows]:
        raise ValueError(f"{PAGE} needs all faults in one run; missing: {missing}")
    above = PAGE.read_text().partition(HEAD)[0]
    lines = (f"| {what} | {' | '.join(rows[what])} |\n" for what in faults())
    PAGE.write_text(above + HEAD + "".join(lines))


def describe_end(site: Site, status: int) -> str:
    """Describe the exit status of a command and the outcomes of its cells."""
    outcomes = Counter(state.outcome for state in read_states(site.folder).values())
    counted = ", ".join(f"{outcomes[word]} {word}" for word in sorted(outcomes))
    return f"exit {status}; {counted or 'nothing ran'}"


def run_inline(site: Site, *arguments: str) -> int:
    """Run a command in this process, which is faster; return the exit status."""
    kept = [
        word for word in arguments if not word.startswith(("runner.workers", "runner.memory_gb"))
    ]
    return run_command(config_loader(), "config", site.overrides(*kept, "runner=inline"))


def rerun(site: Site, *arguments: str, cells: int) -> str:
    """Run the command again in this process, check the results and describe them."""
    assert run_inline(site, *arguments) == 0
    return _check_results(site, cells)


def _check_results(site: Site, cells: int) -> str:
    """Check that every table has every cell once and no file is left over; describe the result."""
    results = load("s", site.results)
    assert sorted(results.cells["init.number"]) == list(range(cells))
    assert set(results.cells["outcome"]) == {"ok"}
    for table in (results.curves, results.layers, results.histograms):
        rows = table.groupby("cell_id", observed=True).size()
        assert (len(rows), rows.nunique()) == (cells, 1)
        keys = [name for name in table.columns if name not in ("value", "count", "right")]
        assert not table.duplicated(keys).any()
    assert_no_leftovers(site)
    more = int((results.cells["attempt"] > 1).sum())
    return f"exit 0; {cells} ok" + (f", {more} of them retried" if more else "")


def assert_no_leftovers(site: Site) -> None:
    """Assert that no journal, lock file or half-written file exists."""
    assert not list(site.folder.journals.glob("*"))
    assert not site.folder.launcher.exists()
    assert not list(site.folder.root.rglob("*.part"))
