"""A disk that is full at any write of a sweep, tested on a real file system of 2 MB."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fault_rows import Record, describe_end, fault, rerun, run_inline
from sweep_process import FAULTY, Site, make_site, wait_for_output, wait_until

from experiments.sweep.store.journal import read_events
from experiments.sweep.store.tables import read_states

CELLS = 6
PAGE = 4096  # bytes: a tmpfs gives room in such pieces
FULL = "can't be written (No space left on device)"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    arguments = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(path)]
    mounted = subprocess.run(arguments, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted site: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def site(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("TROUBLED", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(
        "experiments.sweep.store.plan_file.git", lambda *_: ""
    )  # a diff may be large
    return replace(make_site(tmp_path, FAULTY), results_root=disk)


def fill(disk: Path, free: int = 0) -> None:
    """Fill the disk except for `free` pages of 4 KiB."""
    subprocess.run(["dd", "if=/dev/zero", f"of={disk / 'filler'}", "bs=4096"], capture_output=True)
    assert os.statvfs(disk).f_bavail == 0
    size = (disk / "filler").stat().st_size
    os.truncate(disk / "filler", max(size - free * PAGE, 0))


def test_sweep_resumes_after_a_full_disk_at_any_write(
    site: Site, disk: Path, record: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (f"init.number=range({CELLS})", "runner.pack_cells=3")
    refused, free, kept = [], 0, {}
    while True:
        fill(disk, free)
        status = run_inline(site, *arguments)
        output = capsys.readouterr().err
        if status == 0:
            break
        # One line, which names the file that had no room.
        assert (status, output.count("\n")) == (2, 1), output
        assert FULL in output
        refused.append(Path(output.partition(":")[0]).relative_to(disk).parts[1])
        states = read_states(site.folder)
        assert kept.items() <= {cell: s.attempt for cell, s in states.items()}.items()
        kept = {cell: s.attempt for cell, s in states.items() if s.outcome == "ok"}
        free += 1
    assert {"launcher.json", "cells.jsonl", "sweep.yaml", "journals", "cells"} <= set(refused)
    (disk / "filler").unlink()
    second_run = rerun(site, *arguments, cells=CELLS)
    first_run = "exit 2 each time; the error names the file; finished cells are kept"
    what = fault(
        "the disk is full: launches with more and more free space, so that each write fails in one"
        " of them"
    )
    record(what, first_run, second_run)


def test_full_disk_in_a_worker_prints_one_line(site: Site, disk: Path, record: Record) -> None:
    arguments = (f"init.number=range({CELLS})", "runner.pack_cells=6", "runner.workers=1")
    site.write_file("step-2", "hold")
    sweep = site.start(*arguments)
    wait_until(lambda: (site.root / "at-2").exists(), sweep)
    fill(disk)
    site.remove_files("step-2")
    output = wait_for_output(sweep)
    assert sweep.returncode == 2, output
    assert [line for line in output.splitlines() if FULL in line] == output.splitlines()[-1:]
    assert "Traceback" not in output
    (disk / "filler").unlink()
    first_run = f"the error names the file; {describe_end(site, sweep.returncode)}"
    second_run = rerun(site, *arguments, cells=CELLS)
    record(fault("the disk fills while a worker trains"), first_run, second_run)


@pytest.mark.slow
def test_lost_progress_records_do_not_fail_a_cell(site: Site, disk: Path, record: Record) -> None:
    site.write_file(
        "sitecustomize.py",
        "import sys\n"
        "if 'multiprocessing.forkserver' in ' '.join(sys.orig_argv):\n"
        "    import experiments.sweep.worker.worker\n"
        "    experiments.sweep.worker.worker.PROGRESS_INTERVAL = 0.0\n",
    )
    site = replace(
        site, base_arguments=tuple(w for w in site.base_arguments if not w.startswith("train."))
    )
    arguments = ("init.number=range(2)", "train.steps=2400", "runner.workers=1")
    site.write_file("step-0", "hold")
    site.write_file("late-0", "hold")
    sweep = site.start(*arguments)
    wait_until(lambda: (site.root / "at-0").exists(), sweep)
    fill(disk)
    site.remove_files("at-0", "step-0")
    wait_until(lambda: (site.root / "at-0").exists(), sweep)
    (journal,) = site.folder.journals.iterdir()
    beats = [float(event.value) for event in read_events(journal)[0] if event.kind == "at"]
    assert max(beats, default=0.0) < 0.8  # of those until now the disk took only the first
    (disk / "filler").unlink()
    site.remove_files("late-0")
    output = wait_for_output(sweep)
    assert sweep.returncode == 0, output
    first_run = describe_end(site, sweep.returncode)
    second_run = rerun(site, *arguments, cells=2)
    record(
        fault("the disk is full for a moment, while only progress is written"),
        first_run,
        second_run,
    )
