"""What a fault did, as a row of docs/reliability.md, and the same command once more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sweep_process import Site, finish

from analysis import load
from experiments.config.loader import config_loader
from experiments.sweep.command import run_command
from experiments.sweep.store.state import read_states

STEPS = 3


Record = Callable[[str, str, str], None]
PAGE = Path(__file__).parents[3] / "docs" / "reliability.md"
HEAD = "| what was done | what happened | what the same command did next |\n| --- | --- | --- |\n"


@dataclass(frozen=True)
class Row:
    """A fault: what was done, what happened, and what the same command did next."""

    done: str
    happened: str
    again: str

    def __str__(self) -> str:
        return f"| {self.done} | {self.happened} | {self.again} |\n"


def write_page(rows: Sequence[Row]) -> None:
    """Replace the page's table; what stands above it stays."""
    above = PAGE.read_text().partition(HEAD)[0]
    PAGE.write_text(above + HEAD + "".join(map(str, rows)))


def ended(here: Site, status: int) -> str:
    """How a command ended: its exit status, and what the files say of the cells."""
    outcomes = Counter(state.outcome for state in read_states(here.folder).values())
    counted = ", ".join(f"{outcomes[word]} {word}" for word in sorted(outcomes))
    return f"exit {status}; {counted or 'nothing ran'}"


def again(here: Site, *words: str, cells: int) -> str:
    """Run the command again, in processes as before; every cell is there exactly once."""
    sweep = here.start(*words)
    said = finish(sweep)
    assert "Traceback" not in said, said
    assert sweep.returncode == 0, said
    return _told(here, cells)


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
    steps = found.curves[found.curves["metric"] == "train_loss"]
    for table, rows in (
        (steps, {STEPS}),
        (found.layers, set(found.layers.groupby("cell_id", observed=True).size().head(1))),
        (found.histograms, set(found.histograms.groupby("cell_id", observed=True).size().head(1))),
    ):
        each = table.groupby("cell_id", observed=True).size()
        assert len(each) == cells
        assert set(each) == rows
    assert_nothing_is_left(here)
    ran = int((found.cells["attempt"] > 1).sum())
    return f"exit 0; {cells} ok" + (f", {ran} of them at a further attempt" if ran else "")


def assert_nothing_is_left(here: Site) -> None:
    """No journal, no launcher's note, no half-written file."""
    assert not list(here.folder.journals.glob("*"))
    assert not here.folder.launcher.exists()
    assert not list(here.folder.root.rglob("*.part"))
