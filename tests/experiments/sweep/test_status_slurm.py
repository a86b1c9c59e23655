"""What Slurm says of a sweep's jobs is told in plain words; a silent Slurm holds nobody up."""

from __future__ import annotations

import io
import os
import platform
import time
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from experiments.sweep.slurm.commands import QueuedTask
from experiments.sweep.slurm.submission import (
    JobConfig,
    Submission,
    read_submission,
    write_submission,
)
from experiments.sweep.status import slurm
from experiments.sweep.status.format import in_short, warnings
from experiments.sweep.status.screen import jobs_table
from experiments.sweep.status.slurm import Answer, JobArray, Jobs, SlurmPoller, Wait, jobs_of
from experiments.sweep.status.to_json import jobs_as_json
from experiments.sweep.status.reader import Watch
from experiments.sweep.store.format_version import write_format
from experiments.sweep.store.journal import Journal
from experiments.sweep.store.lock import STALE_SECONDS
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.types import Pack, PackedCell

NOWHERE = {"node": "", "start": "N/A", "restarts": 0}


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    return SweepFolder(tmp_path / "s")


def submitted(folder: SweepFolder, size: int = 6, job: str | None = "7") -> Submission:
    """An array of so many elements, each with the right to run, as if sbatch had taken it."""
    submission = write_submission(folder, [()] * size, JobConfig("code"))
    if job is not None:
        submission.submitted(job)
    return submission


def test_a_job_reads_what_its_launcher_wrote(folder: SweepFolder) -> None:
    cell = PackedCell("a-1", 2, {"init": {"gain": 1.0}}, {"init": "he_normal"}, n_lost=1)
    shard = (Pack((cell, cell), "stacked", 3.5), Pack((cell,)))
    written = write_submission(folder, [(), shard], JobConfig("code", {"mine": "/here"}, tries=1))
    read = read_submission(folder, written.token)
    assert read == written
    assert (read.shard(0), read.shard(1)) == ((), shard)


def slurm_says(submission: Submission, **elements: str) -> Answer:
    """An answer about elements `_0`, `_1`, ...: of each its state, comma, the reason."""
    there = {}
    for name, said in elements.items():
        index, (state, _, reason) = int(name[1:]), said.partition(",")
        one = QueuedTask(submission.job_name, index, "7", state, reason or "None", **NOWHERE)
        there[one.name, index] = one
    return Answer(there, frozenset([submission.job_name]))


def of(submission: Submission, answer: Answer) -> JobArray:
    jobs = jobs_of([submission], answer)
    assert jobs is not None
    (array,) = jobs.arrays
    return array


def shown(jobs: Jobs, width: int = 80, most: int | None = None) -> list[str]:
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(*jobs_table(jobs, most)[0], sep="\n")
    return [line.rstrip() for line in console.export_text().splitlines() if line.strip()]


def test_each_element_that_is_left_is_counted_once(folder: SweepFolder) -> None:
    submission = submitted(folder, size=7)
    submission.lease_dir(6).rmdir()  # its cells have ended
    said = slurm_says(
        submission,
        _0="RUNNING",
        _1="COMPLETING",
        _2="PENDING,Priority",
        _3="REQUEUE_HOLD,job requeued in held state",
        _4="PENDING,JobHeldUser",
        _6="COMPLETING",
    )
    array = of(submission, said)
    assert (array.left, array.running, array.waiting, array.absent) == (6, 2, 1, 1)
    assert array.waits == (Wait(1, "Priority"),)
    assert sorted(array.held) == [3, 4]
    assert array.left == array.running + array.waiting + len(array.held) + array.absent
    jobs = jobs_of([submission], said)
    assert jobs is not None
    assert jobs.at_work == {submission.lease_dir(0).name, submission.lease_dir(1).name}
    assert in_short(jobs) == "2 jobs running, 1 waiting, 2 held, 1 gone"


@pytest.mark.parametrize(
    ("held", "command"),
    [
        ([3], "scontrol release 7_3"),
        ([0, 2, 3, 4], "scontrol release '7_[0,2-4]'"),
        (range(6), "scontrol release 7"),
    ],
)
def test_what_frees_held_jobs_is_told_to_the_letter(
    folder: SweepFolder, held: list[int], command: str
) -> None:
    submission = submitted(folder)
    states = {f"_{i}": "PENDING,JobHeldUser" if i in held else "RUNNING" for i in range(6)}
    jobs = jobs_of([submission], slurm_says(submission, **states))
    assert jobs is not None
    assert f"to free them: {command}" in "\n".join(shown(jobs))
    (warning,) = warnings(jobs)
    assert warning == f"job 7: {len(held)} held by its user; to free them: {command}"
    assert jobs_as_json(jobs)["submissions"][0]["release"] == command


def test_where_they_run_why_they_wait_and_from_when(folder: SweepFolder) -> None:
    submission = submitted(folder, size=9)
    states = {f"_{i}": "RUNNING" for i in range(6)} | {"_6": "PENDING,Resources"}
    said = slurm_says(submission, **states, _7="PENDING,Resources", _8="PENDING,QOSMaxJobsPerUser")
    assert said.elements is not None
    elements = {
        (name, i): replace(each, node=f"n{i}" if i < 6 else "", restarts=int(i in (0, 6)))
        for (name, i), each in said.elements.items()
    }
    begins = (datetime.now() + timedelta(days=20)).replace(microsecond=0)
    for i, later in ((6, 2), (7, 0)):
        key = submission.job_name, i
        start = (begins + timedelta(hours=later)).isoformat()
        elements[key] = replace(elements[key], start=start)
    jobs = jobs_of([submission], replace(said, elements=elements))
    assert jobs is not None
    assert shown(jobs) == [
        "job 7  6 run      on n0, n1, n2, n3 and 2 more",
        f"       2 wait     until nodes are free; expected at {begins:%Y-%m-%d %H:%M}",
        "       1 wait     a limit of its QOS is reached (QOSMaxJobsPerUser)",
        "      2× requeued",
    ]
    (array,) = jobs_as_json(jobs)["submissions"]
    assert array["nodes"] == [f"n{i}" for i in range(6)]
    assert datetime.fromisoformat(array["expected_start"]) == begins.astimezone()
    assert (array["requeued"], array["waiting"][0]["reason"]) == (2, "Resources")


def test_an_array_that_is_not_submitted_yet_has_lost_nothing(folder: SweepFolder) -> None:
    submission = submitted(folder, job=None)
    array = of(submission, Answer({}, frozenset([submission.job_name])))
    assert (array.job_id, array.left, array.absent) == (None, 6, 0)


def test_an_array_that_slurm_was_not_yet_asked_about_is_told_from_the_files(
    folder: SweepFolder,
) -> None:
    older, newer = submitted(folder), submitted(folder, job="8")
    (older.lease_dir(0) / "turn").mkdir()
    (newer.lease_dir(1) / "turn").mkdir()
    (newer.lease_dir(2) / "turn.taken").mkdir()
    jobs = jobs_of([older, newer], slurm_says(older, **{f"_{i}": "PENDING" for i in range(6)}))
    assert jobs is not None
    by_id = {array.job_id: array for array in jobs.arrays}
    assert (by_id["7"].running, by_id["7"].waiting) == (0, 6)
    assert (by_id["8"].running, by_id["8"].waiting, by_id["8"].absent) == (1, 5, 0)


def test_many_arrays_leave_room_for_the_rest_but_held_ones_are_shown(folder: SweepFolder) -> None:
    arrays = [JobArray(str(i), "s", str(i), 3, 1, waits=(Wait(2, "Priority"),)) for i in range(9)]
    arrays.append(JobArray("x", "s", "99", 1, 0, held={0: "JobHeldAdmin"}))
    lines = shown(Jobs(tuple(arrays), frozenset()), most=4)
    assert lines[0].startswith("job 99 1 held by an administrator")
    assert lines[-1] == "and 6 more arrays: 6 jobs running, 12 waiting"


def seen(folder: SweepFolder, answer: Answer) -> str:
    return Watch(folder, answer=answer).look().state


def test_a_sweep_without_a_launcher_is_what_its_jobs_are(folder: SweepFolder) -> None:
    submission = submitted(folder, size=2)
    folder.plan.write_text(
        '{"cell_id": "a", "assignment": {}, "config": {"optim": {"_target_": "SGD"}}}\n'
    )
    write_format(folder)
    held = "PENDING,JobHeldUser"
    assert seen(folder, slurm_says(submission, _0="RUNNING", _1="PENDING")) == "running"
    assert seen(folder, slurm_says(submission, _0=held, _1="PENDING")) == "queued"
    assert seen(folder, slurm_says(submission, _0="PENDING")) == "queued"
    assert seen(folder, slurm_says(submission)) == "stopped"
    silent = Answer(note="Slurm doesn't answer")
    assert seen(folder, silent) == "queued"
    (submission.lease_dir(0) / "turn").mkdir()
    assert seen(folder, silent) == "running"
    for index in range(2):
        submission.lease_dir(index).rename(submission.lease_dir(index).with_suffix(".taken"))
    assert seen(folder, silent) == "stopped"


def test_a_cell_runs_while_slurm_says_that_its_job_does(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    submission = submitted(folder, size=1)
    turn = submission.lease_dir(0) / "00000-turn"
    turn.mkdir()
    with monkeypatch.context() as there:
        there.setattr(platform, "node", lambda: "a-node-of-the-cluster")
        journal = Journal(turn / "p.journal")
    journal.start("a", 1)
    long_ago = time.time() - 2 * STALE_SECONDS
    os.utime(journal.path, (long_ago, long_ago))

    def running(answer: Answer) -> int:
        return Watch(folder, answer=answer).look().counts["running"]

    assert running(slurm_says(submission, _0="RUNNING")) == 1
    assert running(slurm_says(submission, _0="PENDING,BeginTime")) == 0
    silent = Answer(note="Slurm doesn't answer")
    assert running(silent) == 0
    os.utime(journal.path)
    assert running(silent) == 1
    turn.rename(turn.with_name("00000-turn.taken"))
    assert running(slurm_says(submission, _0="RUNNING")) == 0


def test_a_process_whose_turn_is_over_runs_nothing_though_it_lives(folder: SweepFolder) -> None:
    turn = submitted(folder, size=1).lease_dir(0) / "00000-turn"
    turn.mkdir()
    Journal(turn / "p.journal").start("a", 1)  # this process lives
    assert Watch(folder, answer=Answer()).look().counts["running"] == 1
    turn.rename(turn.with_name("00000-turn.taken"))
    assert Watch(folder, answer=Answer()).look().counts["running"] == 0


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands in for squeue on this host, to be written."""
    path = tmp_path / "bin" / "squeue"
    path.parent.mkdir()
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")
    return path


def says(squeue: Path, *lines: str) -> None:
    squeue.write_text("\n".join(["#!/bin/bash", f"echo >>{squeue}.calls", *lines, ""]))
    squeue.chmod(0o755)


def calls(squeue: Path) -> int:
    path = squeue.with_name("squeue.calls")
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_squeue_is_asked_once_however_often_one_looks(squeue: Path) -> None:
    says(squeue)
    asking = SlurmPoller()
    for _ in range(5):
        assert asking.look(["a", "b"]) == Answer({}, frozenset("ab"))
        assert asking._thread is not None
        asking._thread.join()
    assert calls(squeue) == 1


def test_no_look_waits_for_a_silent_slurm_longer_than_the_first(
    squeue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "PATIENCE", 0.2)
    says(squeue, f"until test -e {squeue}.wake; do sleep 0.05; done")
    asking = SlurmPoller()
    assert asking.look(["a"]) == Answer(note=slurm.SILENT)
    for _ in range(50):
        assert asking.look(["a"]) == Answer(note=slurm.SILENT)
    squeue.with_name("squeue.wake").touch()
    end = time.monotonic() + 60
    while asking.look(["a"]).elements is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert calls(squeue) == 1


def test_what_is_launched_never_waits_for_slurm(squeue: Path) -> None:
    says(squeue, f"until test -e {squeue}.wake; do sleep 0.05; done")
    assert SlurmPoller(waits=False).look(["a"]) == Answer()
    squeue.with_name("squeue.wake").touch()


def test_a_refusal_is_told_and_slurm_asked_again_soon(
    squeue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "EVERY", 0.0)
    says(squeue, "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2", "exit 1")
    asking = SlurmPoller()
    note = asking.look(["a"]).note
    assert note is not None
    assert note.startswith("Slurm doesn't answer; this is from the files (squeue: ")
    says(squeue)
    end = time.monotonic() + 60
    while asking.look(["a"]).elements is None:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_without_squeue_on_this_host_the_files_tell(
    folder: SweepFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    submission = submitted(folder)
    (submission.lease_dir(4) / "turn").mkdir()
    jobs = Watch(folder).look().jobs
    assert jobs is not None
    assert shown(jobs) == [
        "job 7 1 begun",
        "      5 not begun",
        "there is no squeue on this host; this is from the files",
    ]
    said = jobs_as_json(jobs)
    assert said["answered"] is False
    assert said["submissions"][0]["waiting"] == [{"count": 5, "reason": None, "words": ""}]
