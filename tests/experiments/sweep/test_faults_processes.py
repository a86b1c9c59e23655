"""Sweeps whose processes die: real workers, real signals."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest
from sweep_process import Site, finish, gone, site, until

from analysis import load
from experiments.config.loader import config_loader
from experiments.sweep.command import run_command
from experiments.sweep.store.state import read_states

CELLS = 12
GRID = (f"init.number=range({CELLS})", "runner.pack_cells=6")
STEPS = 3


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("TROUBLED", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    return site(tmp_path)


def assert_every_cell_once(here: Site) -> None:
    """In `cells`, and in the curves that each cell leaves."""
    found = load("s", here.root)
    assert sorted(found.cells["init.number"]) == list(range(CELLS))
    assert set(found.cells["outcome"]) == {"ok"}
    points = found.curves[found.curves["metric"] == "train_loss"]
    assert set(points.groupby("cell_id", observed=True).size()) == {STEPS}
    assert points["cell_id"].nunique() == CELLS
    assert not list(here.folder.journals.glob("*"))
    assert not here.folder.launcher.exists()


def test_a_killed_worker_costs_its_cell_and_no_other(
    here: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    here.tell("hold-2")
    here.tell("hold-8")
    sweep = here.start(*GRID, "runner.workers=2")
    until(lambda: len(here.held()) == 2, sweep)

    # Meanwhile nobody else may run this sweep, and what is asked about it is right.
    assert run_command(config_loader(None), "config", here.overrides(*GRID)) == 2
    assert f"process {sweep.pid} is running this sweep" in capsys.readouterr().err
    asked = here.overrides(*GRID, "sweep.mode=plan")
    assert run_command(config_loader(None), "config", asked) == 0
    assert "4 done, 8 missing" in capsys.readouterr().out

    os.kill(here.held()[2], signal.SIGKILL)
    here.forget("hold-*")
    said = finish(sweep)
    assert sweep.returncode == 1, said
    assert "11 ok, 1 killed" in said
    cells = load("s", here.root).cells.set_index("init.number")
    assert list(cells.index[cells["outcome"] == "killed"]) == [2]
    assert "exit code -9" in cells.loc[2, "outcome_reason"]

    assert run_command(config_loader(None), "config", here.overrides(*GRID, "runner=inline")) == 0
    assert "11 done, 0 missing, 0 failed, 1 interrupted" in capsys.readouterr().out
    assert_every_cell_once(here)
    cells = load("s", here.root).cells.set_index("init.number")
    assert dict(cells["attempt"]) == {number: 2 if number == 2 else 1 for number in range(CELLS)}
    assert [here.runs(number) for number in range(CELLS)] == [
        2 if number == 2 else 1 for number in range(CELLS)
    ]


def test_a_killed_launcher_takes_its_workers_along_and_the_same_command_goes_on(
    here: Site,
) -> None:
    here.tell("hold-2")
    here.tell("hold-8")
    sweep = here.start(*GRID, "runner.workers=2")
    until(lambda: len(here.held()) == 2, sweep)
    workers = list(here.held().values())
    sweep.kill()
    until(lambda: all(gone(pid) for pid in workers))
    finish(sweep)  # returns when nothing holds its output open: no process is left behind
    here.forget("hold-*")

    again = here.start(*GRID, "runner.workers=2")
    said = finish(again)
    assert again.returncode == 0, said
    assert "4 done, 6 missing, 0 failed, 2 interrupted" in said
    assert_every_cell_once(here)
    # The two at work have a row that says so, and a second attempt.
    again_at = [number for number, rows in here.rows().items() if rows == 2]
    assert sorted(again_at) == [n for n in range(CELLS) if here.runs(n) != 1] == [2, 8]


@pytest.mark.slow
def test_worker_and_launcher_killed_together_lose_two_cells_at_most(here: Site) -> None:
    for held in ((2, 8), (4, 10)):
        for number in held:
            here.tell(f"hold-{number}")
        sweep = here.start(*GRID, "runner.workers=2")
        until(lambda: len(here.held()) == 2, sweep)
        workers = list(here.held().values())
        os.kill(workers[0], signal.SIGKILL)
        sweep.kill()
        until(lambda pids=workers: all(gone(pid) for pid in pids))
        finish(sweep)
        here.forget("hold-*")
    again = here.start(*GRID, "runner.workers=2")
    said = finish(again)
    assert again.returncode == 0, said
    assert_every_cell_once(here)
    assert set(here.rows().values()) <= {1, 2, 3}


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_an_interrupted_sweep_says_so_and_keeps_what_is_done(
    here: Site, number: signal.Signals
) -> None:
    here.tell("hold-2")
    here.tell("hold-8")
    sweep = here.start(*GRID, "runner.workers=2")
    until(lambda: len(here.held()) == 2, sweep)
    if number == signal.SIGINT:
        os.killpg(sweep.pid, number)  # as a terminal does
        os.killpg(sweep.pid, number)  # and again, by the impatient
    else:
        sweep.send_signal(number)
    said = finish(sweep)
    assert sweep.returncode == 130, said
    assert "Interrupted: 4 of 12 cells are done" in said.replace("\n", " ")
    assert len(said.splitlines()) <= 6, said
    outcomes = Counter(state.outcome for state in read_states(here.folder).values())
    assert outcomes == {"ok": 4, "cancelled": 2}
    assert not here.folder.launcher.exists()
    assert not list(here.folder.journals.glob("*"))


def imports_torch(pid: str) -> bool:
    """Whether a process is somewhere in the seconds that the server of workers takes to load."""
    try:
        return "libtorch" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_an_interrupt_while_workers_start_is_as_quiet(here: Site) -> None:
    sweep = here.start(*GRID, "runner.workers=2")
    children = Path(f"/proc/{sweep.pid}/task/{sweep.pid}/children")
    until(lambda: any(imports_torch(pid) for pid in children.read_text().split()), sweep)
    os.killpg(sweep.pid, signal.SIGINT)
    said = finish(sweep)
    assert sweep.returncode == 130, said
    assert "Traceback" not in said
    assert len(said.splitlines()) <= 6, said


def test_what_cells_do_to_their_process_stays_with_them(
    here: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    troubles = {1: "raise", 2: "kill", 3: "memory", 4: "exit", 5: "vanish"}
    for number, trouble in troubles.items():
        here.tell(f"trouble-{number}", trouble)
    grid = ("init.number=range(8)", "runner.workers=2", "runner.pack_cells=8")
    sweep = here.start(*grid)
    said = finish(sweep)
    assert sweep.returncode == 1, said
    cells = load("s", here.root).cells.set_index("init.number")
    assert dict(cells["outcome"]) == {
        0: "ok", 1: "error", 2: "killed", 3: "oom", 4: "error", 5: "killed", 6: "ok", 7: "ok",
    }  # fmt: skip
    assert cells.loc[1, "outcome_reason"] == "ValueError: no luck with 1"
    assert cells.loc[4, "outcome_reason"] == "SystemExit: 3"
    traceback = here.folder.errors / f"{cells.loc[1, 'cell_id']}.1.txt"
    assert "ValueError: no luck with 1" in traceback.read_text()

    # Mended, the same command runs what was interrupted; what failed it runs when asked to.
    here.forget("trouble-*")
    loader, inline = config_loader(None), ("init.number=range(8)", "runner=inline")
    assert run_command(loader, "config", here.overrides(*inline)) == 1
    assert "5 ok, 2 error, 1 oom" in capsys.readouterr().out
    asked = here.overrides(*inline, "sweep.retry=[error,oom]")
    assert run_command(loader, "config", asked) == 0
    cells = load("s", here.root).cells.set_index("init.number")
    assert set(cells["outcome"]) == {"ok"}
    attempts = {number: 2 if number in troubles else 1 for number in range(8)}
    assert dict(cells["attempt"]) == attempts == here.rows()


@pytest.mark.parametrize(
    ("where", "patch"),
    [
        ("at once", "import multiprocessing.spawn as s; s._main = lambda *_: os._exit(1)"),
        pytest.param(
            "before its first cell",
            "import experiments.sweep.store.journal as j\n"
            "    j.Journal.__init__ = lambda *_: os.kill(os.getpid(), 9)",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_workers_that_all_die_end_in_an_error_not_in_a_loop(
    here: Site, where: str, patch: str
) -> None:
    here.tell(
        "sitecustomize.py",
        "import os, sys\n"
        "if 'multiprocessing.forkserver' in ' '.join(sys.orig_argv):\n"
        f"    {patch}\n",
    )
    sweep = here.start(*GRID, "runner.workers=2")
    said = finish(sweep)
    assert sweep.returncode == 2, said
    assert "workers die before they begin a cell; runner=inline shows why" in said
    assert "Traceback" not in said
