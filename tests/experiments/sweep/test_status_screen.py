"""The status screen shows all parts of a status and never exceeds the width of the terminal."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from experiments.sweep.status.failures import Failure
from experiments.sweep.status.launcher import Launcher
from experiments.sweep.status.screen import screen
from experiments.sweep.status.status import RunningCell, Status, Worker
from experiments.sweep.store.paths import SweepFolder

FOLDER = SweepFolder(Path("results/depth"))
ID = "digits-linear-relu-sample-s0-9f0c2a1b3c4d5e6f"


def worker(number: int, cells: int = 1) -> Worker:
    label = f"xavier_normal two_layer [red]tanh lr=0.0{number}"
    running = tuple(
        RunningCell(f"{ID}{n}", f"{label} seed={n}", 0.25, 61.5, n > 0) for n in range(cells)
    )
    return Worker("a-host-with-a-long-name.example.org", 100 + number, "cuda:0", 0.3, running)


RUNNING = Status(
    name="depth",
    folder=FOLDER,
    state="running",
    cells=10_000,
    counts={"done": 4198, "failed": 12, "interrupted": 1, "running": 18, "missing": 5771},
    outcomes={"ok": 4100, "diverged": 98, "error": 12, "killed": 1},
    launcher=Launcher("node17", 99, True, 0.1),
    workers=(worker(1), worker(2, cells=16)),
    elapsed=803.0,
    cells_per_minute=312.4,
    seconds_left=1105.0,
    failures=(
        Failure(ID, "he_normal [red]", "error", 1, f"ValueError: [bold]{'no ' * 50}\nmore", None),
        Failure(ID, "zeros", "oom", 2, "MemoryError: full", FOLDER.errors / f"{ID}.2.txt"),
    ),
    engines={"serial": 4211},
    code_versions={"abc": 4211},
    warnings=(),
    last_change=1.0,
)


def render(status: Status, width: int, height: int | None = None) -> list[str]:
    console = Console(file=io.StringIO(), width=width, record=True, force_terminal=True)
    console.print(screen(status, height))
    return console.export_text().splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_exceeds_the_width_or_wraps(width: int) -> None:
    lines = render(RUNNING, width)
    assert max(map(len, lines)) <= width
    name, bar, pace, counts, _, _, first, second, _, _, *failures = lines
    assert name.strip() == "depth: running: process 99 on node17"
    assert bar.endswith("4,210 of 10,000 cells")
    assert pace.startswith("312 cells/min, 13 min elapsed, about 18 min left (until ")
    assert counts == "4,100 ok, 98 diverged, 12 error, 1 killed, 18 running, 5,771 missing"
    assert first.startswith("a-host-with-a-l…:101  cuda:0  xavier_normal two_layer [red]tanh")
    assert first.endswith("25%  1:01")
    assert second.startswith("a-host-with-a-l…:102  cuda:0  16 cells: xavier_normal two_layer")
    assert failures[0] == "error  he_normal [red]"
    assert failures[1].startswith("  ValueError: [bold]no no")
    assert failures[2:] == ["oom  zeros", "  MemoryError: full", f"  {ID}.2.txt"]


def test_workers_that_do_not_fit_are_counted() -> None:
    many = replace(RUNNING, workers=tuple(worker(number) for number in range(32)))
    lines = render(many, 80, height=24)
    assert len(lines) < 24
    named = sum("cuda:0" in line for line in lines)
    assert f"and {32 - named} more workers" in lines


def test_a_cell_first_seen_after_its_start_shows_a_lower_bound() -> None:
    (cell,) = worker(1).cells
    late = replace(worker(1), cells=(replace(cell, lower_bound=True),))
    assert render(replace(RUNNING, workers=(late,)), 80)[6].endswith(">1:01")


def test_a_single_read_shows_no_time_of_cells() -> None:
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(screen(RUNNING, cell_times=False))
    table = console.export_text().splitlines()[5:8]
    assert table[0].split() == ["worker", "device", "cell", "done"]
    assert all(line.endswith("25%") for line in table[1:])


def test_a_stopped_sweep_shows_how_to_resume_it() -> None:
    stopped = replace(RUNNING, state="stopped", launcher=None, workers=(), seconds_left=None)
    assert render(stopped, 80)[0] == "depth: stopped; run the sweep's command again to resume"
    dead = replace(stopped, launcher=Launcher("node17", 99, False, 9.0))
    assert "stopped (process 99 on node17 died); run" in render(dead, 80)[0]
