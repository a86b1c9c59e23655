"""Edits of configs and code while a sweep runs: no effect, or a warning."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fault_rows import Record, describe_end, fault, rerun
from sweep_process import Site, has_ended, wait_for_output, wait_until

from analysis import load

ROOT = Path(__file__).parents[3]
CELLS = 8
WORDS = (f"init.number=range({CELLS})", "runner.workers=1", "runner.pack_cells=4")
OTHER = "the sweep was launched with"


@pytest.fixture
def checkout(faulty: Site) -> Site:
    """Return a folder with an editable copy of this code, which its sweeps run."""
    for name in ("experiments", "conf"):
        unneeded = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, faulty.root / name, ignore=unneeded)
    return faulty


def hold(site: Site, *arguments: str) -> subprocess.Popen[str]:
    """Start a sweep whose worker waits in cell 1, with one pack running and one queued."""
    site.write_file("step-1", "hold")
    sweep = site.start(*arguments)
    wait_until(lambda: (site.root / "at-1").exists(), sweep)
    return sweep


CHANGES = {
    "lr: 0.1": ("conf/optim/sgd.yaml", "lr: 0.3"),
    '"ok"': ("experiments/cell.py", '"error"'),
}


def edit(site: Site, undo: bool = False) -> None:
    """Make the edits of `CHANGES` in the checkout, or undo them."""
    for old, (name, new) in CHANGES.items():
        before, after = (new, old) if undo else (old, new)
        text = (site.root / name).read_text()
        assert before in text
        (site.root / name).write_text(text.replace(before, after))


def kill(pid: int, sweep: subprocess.Popen[str], worker: int) -> None:
    """Kill a process, and wait until the worker has ended as a result."""
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: has_ended(worker), sweep)


def warnings(site: Site) -> list[str]:
    """Return the warnings of `status`."""
    arguments = ["-m", "experiments.status", "s", "--json", f"--results={site.root}"]
    output = subprocess.run([sys.executable, *arguments], capture_output=True, text=True).stdout
    return list(json.loads(output)["warnings"])


def worker(site: Site) -> int:
    return int((site.root / "at-1").read_text())


def test_edits_do_not_affect_queued_cells(checkout: Site, record: Record) -> None:
    sweep = hold(checkout, *WORDS)
    edit(checkout)
    kill(worker(checkout), sweep, worker(checkout))  # the next worker starts after the edit
    checkout.remove_files("step-1")
    wait_for_output(sweep)
    first_run = describe_end(checkout, sweep.returncode)
    assert first_run == "exit 1; 1 killed, 7 ok"
    cells = load("s", checkout.root, trust=True).cells  # run from the clone `checkout`
    assert cells["code"].nunique() == 1
    assert set(cells["optim.lr"]) == {0.1}
    edit(checkout, undo=True)
    second_run = rerun(checkout, *WORDS, cells=CELLS)
    record(
        fault("configs and code edited while a sweep is queued, and a worker killed"),
        f"the new worker still runs the launched code; {first_run}",
        f"after the edit is undone: {second_run} (cells with edited configs are different cells)",
    )


@pytest.mark.slow
def test_worker_warns_of_changed_code(checkout: Site, record: Record) -> None:
    sweep = hold(checkout, *WORDS)
    file = checkout.root / "experiments" / "cell.py"
    file.write_text(file.read_text() + "# edited\n")
    checkout.write_file("step-6", "hold")
    server = int(Path(f"/proc/{worker(checkout)}/stat").read_text().rpartition(")")[2].split()[1])
    kill(server, sweep, worker(checkout))  # the next worker imports the edited files
    checkout.remove_files("step-1")
    wait_until(lambda: (checkout.root / "at-6").exists(), sweep)
    assert any(OTHER in warning for warning in warnings(checkout))
    checkout.remove_files("step-6")
    wait_for_output(sweep)
    first_run = describe_end(checkout, sweep.returncode)
    assert first_run == "exit 1; 1 killed, 7 ok"
    cells = load("s", checkout.root, trust=True).cells.set_index("init.number").sort_index()
    launched, loaded = cells.loc[0, "code"], cells.loc[7, "code"]
    assert launched != loaded
    assert list(cells["code"].astype(str)) == [launched] * 2 + [loaded] * 6
    second_run = rerun(checkout, *WORDS, cells=CELLS)
    record(
        fault(
            "configs and code edited while a sweep is queued, and the process that workers are "
            "forked from killed"
        ),
        "new workers run the edited code: `fanin status` warns, and the column `code` differs for "
        "the cells that they ran; "
        f"{first_run}",
        second_run,
    )


@pytest.mark.slow
def test_worker_warns_of_a_changed_user_module(faulty: Site, record: Record) -> None:
    sweep = hold(faulty, *WORDS)
    file = faulty.root / "troubled.py"
    file.write_text(file.read_text().replace("return 0.1 * ", "return 0.9 * "))
    faulty.write_file("step-6", "hold")
    kill(worker(faulty), sweep, worker(faulty))
    faulty.remove_files("step-1")
    wait_until(lambda: (faulty.root / "at-6").exists(), sweep)
    assert any(OTHER in warning and "troubled:" in warning for warning in warnings(faulty))
    faulty.remove_files("step-6")
    wait_for_output(sweep)
    first_run = describe_end(faulty, sweep.returncode)
    cells = load("s", faulty.root, trust=True).cells.set_index("init.number").sort_index()
    assert ["+troubled:" in code for code in cells["code"]] == [False] * 2 + [True] * 6
    second_run = rerun(faulty, *WORDS, cells=CELLS)
    record(
        fault("a user's module edited while a sweep is queued, and a worker killed"),
        f"new workers import the edited module, with the same effect; {first_run}",
        second_run,
    )


@pytest.mark.parametrize("change", ["edited", "deleted"])
def test_a_module_that_changes_during_the_first_cell_is_the_one_that_ran(
    faulty: Site, change: str
) -> None:
    faulty.write_file("hold-0")
    sweep = faulty.start("init.number=range(2)", "runner.workers=1", "runner.pack_cells=2")
    wait_until(lambda: faulty.held_workers(), sweep)
    file = faulty.root / "troubled.py"
    text = file.read_text()
    if change == "edited":
        file.write_text(f"{text}\n# edited\n")
    else:
        file.unlink()
    faulty.remove_files("hold-0")
    output = wait_for_output(sweep)
    assert sweep.returncode == 0, output
    file.write_text(text)
    cells = load("s", faulty.root, trust=True).cells
    assert list(cells["outcome"]) == ["ok"] * 2
    assert not any("+troubled:" in code for code in cells["code"])
