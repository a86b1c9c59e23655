"""A disk that is full, whatever is being written: a file system of two MB, really filled."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fault_rows import Record, again_here, ended, fault, run_here
from sweep_process import FAULTY, Site, finish, site, until

from experiments.sweep.store.journal import read_events
from experiments.sweep.store.tables import read_states

CELLS = 6
PAGE = 4096  # bytes: a tmpfs gives room in such pieces
FULL = "can't be written (No space left on device)"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(path)]
    mounted = subprocess.run(words, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def here(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("TROUBLED", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(
        "experiments.sweep.store.plan_file.git", lambda *_: ""
    )  # a diff may be large
    return replace(site(tmp_path, FAULTY), elsewhere=disk)


def fill(disk: Path, free: int = 0) -> None:
    """Leave so many pages free."""
    subprocess.run(["dd", "if=/dev/zero", f"of={disk / 'filler'}", "bs=4096"], capture_output=True)
    assert os.statvfs(disk).f_bavail == 0
    size = (disk / "filler").stat().st_size
    os.truncate(disk / "filler", max(size - free * PAGE, 0))


def test_whatever_the_full_disk_does_not_take_the_next_command_goes_on(
    here: Site, disk: Path, record: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (f"init.number=range({CELLS})", "runner.pack_cells=3")
    refused, free, kept = [], 0, {}
    while True:
        fill(disk, free)
        status = run_here(here, *words)
        said = capsys.readouterr().err
        if status == 0:
            break
        # One line, which names the file that had no room.
        assert (status, said.count("\n")) == (2, 1), said
        assert FULL in said
        refused.append(Path(said.partition(":")[0]).relative_to(disk).parts[1])
        states = read_states(here.folder)
        assert kept.items() <= {cell: s.attempt for cell, s in states.items()}.items()
        kept = {cell: s.attempt for cell, s in states.items() if s.outcome == "ok"}
        free += 1
    assert {"launcher.json", "cells.jsonl", "sweep.yaml", "journals", "cells"} <= set(refused)
    (disk / "filler").unlink()
    told = again_here(here, *words, cells=CELLS)
    happened = "exit 2, a line that names the file; what was finished is kept"
    record(fault("the disk is full, at each of a sweep's writes in turn"), happened, told)


def test_a_worker_whose_disk_is_full_ends_the_sweep_in_a_line(
    here: Site, disk: Path, record: Record
) -> None:
    words = (f"init.number=range({CELLS})", "runner.pack_cells=6", "runner.workers=1")
    here.tell("step-2", "hold")
    sweep = here.start(*words)
    until(lambda: (here.root / "at-2").exists(), sweep)
    fill(disk)
    here.forget("step-2")
    said = finish(sweep)
    assert sweep.returncode == 2, said
    assert [line for line in said.splitlines() if FULL in line] == said.splitlines()[-1:]
    assert "Traceback" not in said
    (disk / "filler").unlink()
    happened = f"a line that names the file; {ended(here, sweep.returncode)}"
    told = again_here(here, *words, cells=CELLS)
    record(fault("the disk fills while a worker trains"), happened, told)


@pytest.mark.slow
def test_a_heartbeat_that_the_disk_does_not_take_is_nothing_to_a_cell(
    here: Site, disk: Path, record: Record
) -> None:
    here.tell(
        "sitecustomize.py",
        "import sys\n"
        "if 'multiprocessing.forkserver' in ' '.join(sys.orig_argv):\n"
        "    import experiments.sweep.worker.worker\n"
        "    experiments.sweep.worker.worker.PROGRESS_INTERVAL = 0.0\n",
    )
    here = replace(here, words=tuple(w for w in here.words if not w.startswith("train.")))
    words = ("init.number=range(2)", "train.steps=2400", "runner.workers=1")
    here.tell("step-0", "hold")
    here.tell("late-0", "hold")
    sweep = here.start(*words)
    until(lambda: (here.root / "at-0").exists(), sweep)
    fill(disk)
    here.forget("at-0", "step-0")
    until(lambda: (here.root / "at-0").exists(), sweep)
    (journal,) = here.folder.journals.iterdir()
    beats = [float(event.value) for event in read_events(journal)[0] if event.kind == "at"]
    assert max(beats, default=0.0) < 0.8  # of those until now the disk took only the first
    (disk / "filler").unlink()
    here.forget("late-0")
    said = finish(sweep)
    assert sweep.returncode == 0, said
    happened = ended(here, sweep.returncode)
    told = again_here(here, *words, cells=2)
    record(fault("the disk is full for a while, and only heartbeats are lost"), happened, told)
