"""A sweep's screen tells all there is to tell, with or without colour, and keeps to its width."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from experiments.sweep.status.screen import screen
from experiments.sweep.status.status import Failure, Launcher, RunningCell, Status, Worker
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
    per_minute=312.4,
    left=1105.0,
    failures=(
        Failure(ID, "he_normal [red]", "error", 1, f"ValueError: [bold]{'no ' * 50}\nmore", None),
        Failure(ID, "zeros", "oom", 2, "MemoryError: full", FOLDER.errors / f"{ID}.2.txt"),
    ),
    engines={"serial": 4211},
    codes={"abc": 4211},
    warnings=(),
    changed=1.0,
)


def shown(status: Status, width: int, height: int | None = None) -> list[str]:
    console = Console(file=io.StringIO(), width=width, record=True, force_terminal=True)
    console.print(screen(status, height))
    return console.export_text().splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_a_line_is_never_longer_than_the_screen_is_wide_and_none_wraps(width: int) -> None:
    lines = shown(RUNNING, width)
    assert max(map(len, lines)) <= width
    name, bar, pace, counts, _, _, first, second, _, _, *failures = lines
    assert name.strip() == "depth: running: process 99 on node17"
    assert bar.endswith("4,211 of 10,000 cells")
    assert pace.startswith("312 cells/min, 13 min so far, about 18 min left (until ")
    assert counts == "4,100 ok, 98 diverged, 12 error, 1 killed, 18 running, 5,771 missing"
    assert first.startswith("a-host-with-a-l…:101  cuda:0  xavier_normal two_layer [red]tanh")
    assert first.endswith("25%  1:01")
    assert second.startswith("a-host-with-a-l…:102  cuda:0  16 cells: xavier_normal two_layer")
    assert failures[0] == "error  he_normal [red]"
    assert failures[1].startswith("  ValueError: [bold]no no")
    assert failures[2:] == ["oom  zeros", "  MemoryError: full", f"  {ID}.2.txt"]


def test_workers_that_find_no_room_are_counted() -> None:
    many = replace(RUNNING, workers=tuple(worker(number) for number in range(32)))
    lines = shown(many, 80, height=24)
    assert len(lines) < 24
    named = sum("cuda:0" in line for line in lines)
    assert f"and {32 - named} more workers" in lines


def test_a_cell_that_had_begun_before_anybody_looked_has_run_longer_than_seen() -> None:
    (cell,) = worker(1).cells
    seen = replace(worker(1), cells=(replace(cell, at_least=True),))
    assert shown(replace(RUNNING, workers=(seen,)), 80)[6].endswith(">1:01")


def test_a_sweep_that_stopped_says_how_to_go_on() -> None:
    stopped = replace(RUNNING, state="stopped", launcher=None, workers=(), left=None)
    assert shown(stopped, 80)[0] == "depth: stopped: nobody runs it; the same command goes on"
    dead = replace(stopped, launcher=Launcher("node17", 99, False, 9.0))
    assert "process 99 on node17 is dead" in shown(dead, 80)[0]
