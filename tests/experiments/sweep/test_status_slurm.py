"""Status of Slurm jobs: states, reasons and commands; a Slurm that hangs does not block."""

from __future__ import annotations

import io
import json
import os
import platform
import time
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from experiments.result import CellResult
from experiments.sweep.slurm.commands import QueuedTask
from experiments.sweep.slurm.submission import (
    JobConfig,
    Submission,
    read_submission,
    write_submission,
)
from experiments.sweep.status import slurm
from experiments.sweep.status.format import job_warnings, jobs_summary, pace_text
from experiments.sweep.status.reader import StatusReader
from experiments.sweep.status.screen import jobs_table
from experiments.sweep.status.slurm import (
    JobArray,
    Jobs,
    PendingTasks,
    SlurmAnswer,
    SlurmPoller,
    summarize_jobs,
)
from experiments.sweep.status.summary import show_jobs
from experiments.sweep.status.to_json import jobs_to_json
from experiments.sweep.store.format_version import write_format
from experiments.sweep.store.journal import Journal
from experiments.sweep.store.lock import STALE_SECONDS
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.types import Pack, PackedCell

NO_NODE = {"node": "", "start": "N/A", "restarts": 0}


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    return SweepFolder(tmp_path / "s")


def submitted_array(folder: SweepFolder, size: int = 6, job: str | None = "7") -> Submission:
    """Write an array with its leases as if sbatch had accepted it with this job id."""
    submission = write_submission(folder, [()] * size, JobConfig("code"))
    if job is not None:
        submission.write_job_id(job)
    return submission


def test_a_job_reads_what_its_launcher_wrote(folder: SweepFolder) -> None:
    cell = PackedCell("a-1", 2, {"init": {"gain": 1.0}}, {"init": "he_normal"}, n_lost=1)
    shard = (Pack((cell, cell), "stacked", 3.5), Pack((cell,)))
    written = write_submission(
        folder, [(), shard], JobConfig("code", {"my_module": "/path"}, startup_failures=1)
    )
    read = read_submission(folder, written.token)
    assert read == written
    assert (read.shard(0), read.shard(1)) == ((), shard)


def slurm_answer(submission: Submission, **states: str) -> SlurmAnswer:
    """Return an answer of Slurm; `_0="PENDING,Priority"` gives the state and reason of task 0."""
    tasks = {}
    for key, value in states.items():
        index, (state, _, reason) = int(key[1:]), value.partition(",")
        task = QueuedTask(submission.job_name, index, "7", state, reason or "None", **NO_NODE)
        tasks[task.name, index] = task
    return SlurmAnswer(tasks, frozenset([submission.job_name]))


def only_array(submission: Submission, answer: SlurmAnswer) -> JobArray:
    jobs = summarize_jobs([submission], answer)
    assert jobs is not None
    (array,) = jobs.arrays
    return array


def render(jobs: Jobs, width: int = 80, max_arrays: int | None = None) -> list[str]:
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(*jobs_table(jobs, max_arrays)[0], sep="\n")
    return [line.rstrip() for line in console.export_text().splitlines() if line.strip()]


def test_each_unfinished_task_is_counted_once(folder: SweepFolder) -> None:
    submission = submitted_array(folder, size=7)
    submission.lease_dir(6).rmdir()  # its cells have ended
    answer = slurm_answer(
        submission,
        _0="RUNNING",
        _1="COMPLETING",
        _2="PENDING,Priority",
        _3="REQUEUE_HOLD,job requeued in held state",
        _4="PENDING,JobHeldUser",
        _6="COMPLETING",
    )
    array = only_array(submission, answer)
    assert (array.unfinished, array.running, array.n_pending, array.missing) == (6, 2, 1, 1)
    assert array.pending == (PendingTasks(1, "Priority"),)
    assert sorted(array.held) == [3, 4]
    n_tasks = array.running + array.n_pending + len(array.held) + array.missing
    assert array.unfinished == n_tasks
    jobs = summarize_jobs([submission], answer)
    assert jobs is not None
    assert jobs.running_leases == {submission.lease_dir(0).name, submission.lease_dir(1).name}
    assert jobs_summary(jobs) == "2 jobs running, 1 pending, 2 held, 1 missing"


@pytest.mark.parametrize(
    ("held", "command"),
    [
        ([3], "scontrol release 7_3"),
        ([0, 2, 3, 4], "scontrol release '7_[0,2-4]'"),
        (range(6), "scontrol release 7"),
    ],
)
def test_the_command_that_releases_held_tasks_is_shown(
    folder: SweepFolder, held: list[int], command: str
) -> None:
    submission = submitted_array(folder)
    states = {f"_{i}": "PENDING,JobHeldUser" if i in held else "RUNNING" for i in range(6)}
    jobs = summarize_jobs([submission], slurm_answer(submission, **states))
    assert jobs is not None
    assert f"to release: {command}" in "\n".join(render(jobs))
    (warning,) = job_warnings(jobs)
    assert warning == f"job 7: {len(held)} held by its user; to release: {command}"
    assert jobs_to_json(jobs)["submissions"][0]["release_command"] == command


def test_nodes_reasons_and_expected_starts_are_shown(folder: SweepFolder) -> None:
    submission = submitted_array(folder, size=9)
    states = {f"_{i}": "RUNNING" for i in range(6)} | {"_6": "PENDING,Resources"}
    answer = slurm_answer(
        submission, **states, _7="PENDING,Resources", _8="PENDING,QOSMaxJobsPerUser"
    )
    assert answer.tasks is not None
    tasks = {
        (name, i): replace(task, node=f"n{i}" if i < 6 else "", restarts=int(i in (0, 6)))
        for (name, i), task in answer.tasks.items()
    }
    first_start = (datetime.now() + timedelta(days=20)).replace(microsecond=0)
    for i, hours in ((6, 2), (7, 0)):
        key = submission.job_name, i
        start = (first_start + timedelta(hours=hours)).isoformat()
        tasks[key] = replace(tasks[key], start=start)
    jobs = summarize_jobs([submission], replace(answer, tasks=tasks))
    assert jobs is not None
    assert render(jobs, width=100) == [
        "job 7  6 running  on n0, n1, n2, n3 and 2 more",
        f"       2 pending  waiting for free nodes; Slurm: by {first_start:%Y-%m-%d %H:%M} at the "
        "latest",
        "       1 pending  limit of its QOS reached (QOSMaxJobsPerUser)",
        "      2× requeued",
    ]
    (array,) = jobs_to_json(jobs)["submissions"]
    assert array["nodes"] == [f"n{i}" for i in range(6)]
    assert datetime.fromisoformat(array["expected_start"]) == first_start.astimezone()
    assert (array["requeued"], array["pending"][0]["reason"]) == (2, "Resources")


def test_the_time_left_comes_from_measured_cells_not_from_time_in_the_queue(
    folder: SweepFolder,
) -> None:
    submission = submitted_array(folder, size=3)
    optim = {"optim": {"_target_": "SGD"}}
    lines = [{"cell_id": cell, "assignment": {"seed": cell}, "config": optim} for cell in "abcde"]
    folder.plan.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    write_format(folder)
    folder.provenance.touch()
    long_ago = time.time() - 3600  # an hour in the queue
    os.utime(folder.provenance, (long_ago, long_ago))
    writer_dir = submission.lease_dir(0) / "00000-writer"
    writer_dir.mkdir()
    journal = Journal(writer_dir / "p.journal")
    journal.start("a", 1)
    journal.progress("a", 1, 2)
    states = {"_0": "RUNNING", "_1": "PENDING,Priority", "_2": "PENDING,Priority"}
    reader = StatusReader(folder, answer=slurm_answer(submission, **states))
    assert reader.read().seconds_left is None  # no cell has been measured
    row = {"cell_id": "a", "outcome": "ok", "attempt": 1, "seconds": 60.0, "n": float("nan")}
    journal.done(CellResult(row, {"layers": [{"seconds": 7.0}]}))
    journal.start("b", 1)
    journal.progress("b", 1, 2)
    status = reader.read()
    assert status.seconds_left == 60.0 * 3.5  # b's second half, c, d and e, on one worker
    assert ", about 4 min left with 1 job (until " in pace_text(status)


def test_submitted_jobs_are_named_with_the_command_that_waits(folder: SweepFolder) -> None:
    submitted_array(folder, size=2, job="1")
    console = Console(file=io.StringIO(), width=200, record=True)
    show_jobs(console, folder, submitted=True)
    show_jobs(console, folder)
    after_submit, after_interrupt = console.export_text().splitlines()
    first = "2 jobs active on Slurm (job id 1). Run the same command "
    assert after_submit.startswith(f"{first}without sweep.mode=submit to wait, `fanin status ")
    assert after_interrupt.startswith(f"{first}again to wait, `fanin status ")


def test_an_array_not_submitted_yet_has_no_missing_tasks(folder: SweepFolder) -> None:
    submission = submitted_array(folder, job=None)
    array = only_array(submission, SlurmAnswer({}, frozenset([submission.job_name])))
    assert (array.job_id, array.unfinished, array.missing) == (None, 6, 0)


def test_an_array_not_in_the_answer_is_read_from_the_files(
    folder: SweepFolder,
) -> None:
    older, newer = submitted_array(folder), submitted_array(folder, job="8")
    (older.lease_dir(0) / "writer").mkdir()
    (newer.lease_dir(1) / "writer").mkdir()
    (newer.lease_dir(2) / "writer.taken").mkdir()
    jobs = summarize_jobs(
        [older, newer], slurm_answer(older, **{f"_{i}": "PENDING" for i in range(6)})
    )
    assert jobs is not None
    by_id = {array.job_id: array for array in jobs.arrays}
    assert (by_id["7"].running, by_id["7"].n_pending) == (0, 6)
    assert (by_id["8"].running, by_id["8"].n_pending, by_id["8"].missing) == (1, 5, 0)


def test_of_many_arrays_those_with_held_tasks_are_shown_first(folder: SweepFolder) -> None:
    arrays = [
        JobArray(str(i), "s", str(i), 3, 1, pending=(PendingTasks(2, "Priority"),))
        for i in range(9)
    ]
    arrays.append(JobArray("x", "s", "99", 1, 0, held={0: "JobHeldAdmin"}))
    lines = render(Jobs(tuple(arrays), frozenset()), max_arrays=4)
    assert lines[0].startswith("job 99 1 held    by an administrator")
    assert lines[-1] == "and 6 more arrays: 6 jobs running, 12 pending"


def sweep_state(folder: SweepFolder, answer: SlurmAnswer) -> str:
    return StatusReader(folder, answer=answer).read().state


def test_without_a_launcher_the_state_follows_from_the_jobs(folder: SweepFolder) -> None:
    submission = submitted_array(folder, size=2)
    folder.plan.write_text(
        '{"cell_id": "a", "assignment": {}, "config": {"optim": {"_target_": "SGD"}}}\n'
    )
    write_format(folder)
    held = "PENDING,JobHeldUser"
    assert sweep_state(folder, slurm_answer(submission, _0="RUNNING", _1="PENDING")) == "running"
    assert sweep_state(folder, slurm_answer(submission, _0=held, _1="PENDING")) == "queued"
    assert sweep_state(folder, slurm_answer(submission, _0="PENDING")) == "queued"
    assert sweep_state(folder, slurm_answer(submission)) == "stopped"
    no_answer = SlurmAnswer(note="Slurm doesn't answer")
    assert sweep_state(folder, no_answer) == "queued"
    (submission.lease_dir(0) / "writer").mkdir()
    assert sweep_state(folder, no_answer) == "running"
    for index in range(2):
        submission.lease_dir(index).rename(submission.lease_dir(index).with_suffix(".taken"))
    assert sweep_state(folder, no_answer) == "stopped"


def test_a_cell_runs_if_slurm_lists_its_job_as_running(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    submission = submitted_array(folder, size=1)
    writer_dir = submission.lease_dir(0) / "00000-writer"
    writer_dir.mkdir()
    with monkeypatch.context() as context:
        context.setattr(platform, "node", lambda: "a-node-of-the-cluster")
        journal = Journal(writer_dir / "p.journal")
    journal.start("a", 1)
    long_ago = time.time() - 2 * STALE_SECONDS
    os.utime(journal.path, (long_ago, long_ago))

    def running(answer: SlurmAnswer) -> int:
        return StatusReader(folder, answer=answer).read().counts["running"]

    assert running(slurm_answer(submission, _0="RUNNING")) == 1
    assert running(slurm_answer(submission, _0="PENDING,BeginTime")) == 0
    no_answer = SlurmAnswer(note="Slurm doesn't answer")
    assert running(no_answer) == 0
    os.utime(journal.path)
    assert running(no_answer) == 1
    writer_dir.rename(writer_dir.with_name("00000-writer.taken"))
    assert running(slurm_answer(submission, _0="RUNNING")) == 0


def test_a_live_process_without_lease_runs_no_cell(folder: SweepFolder) -> None:
    writer_dir = submitted_array(folder, size=1).lease_dir(0) / "00000-writer"
    writer_dir.mkdir()
    Journal(writer_dir / "p.journal").start("a", 1)  # the writer is this process
    assert StatusReader(folder, answer=SlurmAnswer()).read().counts["running"] == 1
    writer_dir.rename(writer_dir.with_name("00000-writer.taken"))
    assert StatusReader(folder, answer=SlurmAnswer()).read().counts["running"] == 0


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of a fake squeue, to be written by the test."""
    path = tmp_path / "bin" / "squeue"
    path.parent.mkdir()
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")
    return path


def write_squeue(squeue: Path, *lines: str) -> None:
    squeue.write_text("\n".join(["#!/bin/bash", f"echo >>{squeue}.calls", *lines, ""]))
    squeue.chmod(0o755)


def count_calls(squeue: Path) -> int:
    path = squeue.with_name("squeue.calls")
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_frequent_polls_call_squeue_once(squeue: Path) -> None:
    write_squeue(squeue)
    poller = SlurmPoller()
    for _ in range(5):
        assert poller.poll(["a", "b"]) == SlurmAnswer({}, frozenset("ab"))
        assert poller._thread is not None
        poller._thread.join()
    assert count_calls(squeue) == 1


def test_polls_do_not_block_while_slurm_hangs(
    squeue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "ANSWER_TIMEOUT", 0.2)
    write_squeue(squeue, f"until test -e {squeue}.wake; do sleep 0.05; done")
    poller = SlurmPoller()
    assert poller.poll(["a"]) == SlurmAnswer(note=slurm.NO_ANSWER)
    for _ in range(50):
        assert poller.poll(["a"]) == SlurmAnswer(note=slurm.NO_ANSWER)
    squeue.with_name("squeue.wake").touch()
    end = time.monotonic() + 60
    while poller.poll(["a"]).tasks is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert count_calls(squeue) == 1


def test_a_launcher_does_not_wait_for_slurm(squeue: Path) -> None:
    write_squeue(squeue, f"until test -e {squeue}.wake; do sleep 0.05; done")
    assert SlurmPoller(wait_for_first=False).poll(["a"]) == SlurmAnswer()
    squeue.with_name("squeue.wake").touch()


def test_an_error_of_squeue_is_shown_and_the_query_repeated(
    squeue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "POLL_SECONDS", 0.0)
    write_squeue(
        squeue, "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2", "exit 1"
    )
    poller = SlurmPoller()
    note = poller.poll(["a"]).note
    assert note is not None
    assert note.startswith(f"{slurm.NO_ANSWER} (squeue: ")
    write_squeue(squeue)
    end = time.monotonic() + 60
    while poller.poll(["a"]).tasks is None:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_without_squeue_the_jobs_are_read_from_the_files(
    folder: SweepFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    submission = submitted_array(folder)
    (submission.lease_dir(4) / "writer").mkdir()
    jobs = StatusReader(folder).read().jobs
    assert jobs is not None
    assert render(jobs) == [
        "job 7 1 started",
        "      5 not started",
        "squeue is not installed here; showing the state from the sweep's files",
    ]
    data = jobs_to_json(jobs)
    assert data["answered"] is False
    pending = data["submissions"][0]["pending"]
    assert pending == [{"count": 5, "reason": None, "explanation": ""}]
