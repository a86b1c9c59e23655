"""Editing configs and code while a sweep is queued changes nothing that runs, or it is told."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fault_rows import Record, again_here, ended, fault
from sweep_process import Site, finish, gone, until

from analysis import load

ROOT = Path(__file__).parents[3]
CELLS = 8
WORDS = (f"init.number=range({CELLS})", "runner.workers=1", "runner.pack_cells=4")
OTHER = "runs other code than the sweep was launched with"


@pytest.fixture
def checkout(faulty: Site) -> Site:
    """A copy of this code, to be edited, which sweeps here run."""
    for name in ("experiments", "conf", "hydra_plugins"):
        unneeded = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, faulty.root / name, ignore=unneeded)
    return faulty


def hold(here: Site, *words: str) -> subprocess.Popen[str]:
    """A sweep whose worker waits in cell 1, with one pack in work and one in the queue."""
    here.tell("step-1", "hold")
    sweep = here.start(*words)
    until(lambda: (here.root / "at-1").exists(), sweep)
    return sweep


CHANGES = {
    "lr: 0.1": ("conf/optim/sgd.yaml", "lr: 0.3"),
    '"ok"': ("experiments/cell.py", '"error"'),
}


def edit(here: Site, undo: bool = False) -> None:
    """Another learning rate, and another word for success."""
    for old, (name, new) in CHANGES.items():
        before, after = (new, old) if undo else (old, new)
        text = (here.root / name).read_text()
        assert before in text
        (here.root / name).write_text(text.replace(before, after))


def kill(pid: int, sweep: subprocess.Popen[str], worker: int) -> None:
    """Kill a process, and wait for the worker's end, which that brings about."""
    os.kill(pid, signal.SIGKILL)
    until(lambda: gone(worker), sweep)


def warnings(here: Site) -> list[str]:
    """What `status` warns of."""
    asked = ["-m", "experiments.status", "s", "--json", f"--results={here.root}"]
    said = subprocess.run([sys.executable, *asked], capture_output=True, text=True).stdout
    return list(json.loads(said)["warnings"])


def worker(here: Site) -> int:
    return int((here.root / "at-1").read_text())


def test_editing_configs_and_code_changes_nothing_that_is_queued(
    checkout: Site, record: Record
) -> None:
    sweep = hold(checkout, *WORDS)
    edit(checkout)
    kill(worker(checkout), sweep, worker(checkout))  # the next one starts after the edit
    checkout.forget("step-1")
    finish(sweep)
    happened = ended(checkout, sweep.returncode)
    assert happened == "exit 1; 1 killed, 7 ok"
    cells = load("s", checkout.root).cells
    assert cells["code"].nunique() == 1
    assert set(cells["optim.lr"]) == {0.1}
    edit(checkout, undo=True)
    next_ = again_here(checkout, *WORDS, cells=CELLS)
    record(
        fault("configs and code edited while a sweep is queued, and a worker killed"),
        f"what was launched runs on; {happened}",
        f"with the edit undone: {next_} (edited configs are other cells)",
    )


@pytest.mark.slow
def test_a_worker_that_has_to_load_other_code_says_so(checkout: Site, record: Record) -> None:
    sweep = hold(checkout, *WORDS)
    file = checkout.root / "experiments" / "cell.py"
    file.write_text(file.read_text() + "# edited\n")
    checkout.tell("step-6", "hold")
    server = int(Path(f"/proc/{worker(checkout)}/stat").read_text().rpartition(")")[2].split()[1])
    kill(server, sweep, worker(checkout))  # the next one has to load what is there now
    checkout.forget("step-1")
    until(lambda: (checkout.root / "at-6").exists(), sweep)
    assert any(OTHER in warning for warning in warnings(checkout))
    checkout.forget("step-6")
    finish(sweep)
    happened = ended(checkout, sweep.returncode)
    assert happened == "exit 1; 1 killed, 7 ok"
    cells = load("s", checkout.root).cells.set_index("init.number").sort_index()
    launched, loaded = cells.loc[0, "code"], cells.loc[7, "code"]
    assert launched != loaded
    assert list(cells["code"].astype(str)) == [launched] * 2 + [loaded] * 6
    next_ = again_here(checkout, *WORDS, cells=CELLS)
    record(
        fault("the same, and the process that workers are forked from killed"),
        f"new workers say so in `status`, and in their rows' `code`; {happened}",
        next_,
    )


@pytest.mark.slow
def test_an_edited_module_of_ones_own_is_noticed(faulty: Site, record: Record) -> None:
    sweep = hold(faulty, *WORDS)
    file = faulty.root / "troubled.py"
    file.write_text(file.read_text().replace("return 0.1 * ", "return 0.9 * "))
    faulty.tell("step-6", "hold")
    kill(worker(faulty), sweep, worker(faulty))
    faulty.forget("step-1")
    until(lambda: (faulty.root / "at-6").exists(), sweep)
    assert any(OTHER in warning and "troubled:" in warning for warning in warnings(faulty))
    faulty.forget("step-6")
    finish(sweep)
    happened = ended(faulty, sweep.returncode)
    cells = load("s", faulty.root).cells.set_index("init.number").sort_index()
    assert ["+troubled:" in code for code in cells["code"]] == [False] * 2 + [True] * 6
    next_ = again_here(faulty, *WORDS, cells=CELLS)
    record(
        fault("a module of one's own edited while a sweep is queued, and a worker killed"),
        f"as above, for new workers load it; {happened}",
        next_,
    )
