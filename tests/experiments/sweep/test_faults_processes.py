"""Workers that die: one in a cell, or all of them at birth."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from sweep_process import Site, finish, site, until

from analysis import load
from experiments.config.catalog import config_loader
from experiments.sweep.cli import run_command

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


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("where", "patch"),
    [
        ("at once", "import multiprocessing.spawn as s; s._main = lambda *_: os._exit(1)"),
        pytest.param(
            "before its first cell",
            "import experiments.sweep.store.journal as j\n"
            "    j.Journal.__init__ = lambda *_, **__: os.kill(os.getpid(), 9)",
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
