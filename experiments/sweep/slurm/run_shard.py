"""One run of a job: recover what earlier runs left, run the rest of the shard, requeue if told."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pebble import CONSTS

from experiments.sweep.interrupts import Interrupted
from experiments.sweep.runners.devices import cores, devices
from experiments.sweep.runners.pool import PoolConfig, run_pool
from experiments.sweep.slurm.commands import SlurmError, call
from experiments.sweep.slurm.exit_cause import previous_end
from experiments.sweep.slurm.lease import TAKEN_OVER, acquire, end_turn, settle_lost
from experiments.sweep.slurm.preemption import PreemptionHandler
from experiments.sweep.slurm.shards import remaining_cells
from experiments.sweep.slurm.submission import JobConfig, Submission
from experiments.sweep.store.journal import journals_in
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.tables import read_states
from experiments.sweep.types import Pack
from experiments.sweep.worker.finalize import finalize_journal
from experiments.sweep.worker.limits import GIB
from experiments.training.checkpoint import saved_progress
from fanin.errors import FaninError

GRACE = 20.0  # seconds that workers have at most to save their state
MAX_STALLED = 3  # turns in a row that get nowhere, after which a cell is given up
EXIT_STOPPED = 75  # exit status of a job that was stopped and does not go on (sysexits.h)
TOO_SHORT = "its jobs are too short for it (runner.slurm.time_minutes)"

ProgressSnapshot = Mapping[str, tuple[int, int]]  # by cell, how far it is


def run_shard(submission: Submission, index: int) -> int:
    """Run an element's shard as far as Slurm lets it; return the exit status."""
    restart = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    right = submission.lease_dir(index)
    turn = acquire(right, restart)
    if turn is None:
        print("nothing to do: these cells have ended, were taken back, or run elsewhere")
        return 0
    folder, job_config = submission.folder, submission.job_config
    packs = list(submission.shard(index))
    if restart or _has_earlier_turns(right, turn):
        tasks = {task.cell_id: task for pack in packs for task in pack.cells}
        settle_lost(folder, right, tasks, *previous_end(index))
        packs = remaining_cells(packs, read_states(folder), job_config.attempts)
    before = progress_snapshot(folder, packs)
    CONSTS.term_timeout = 0  # no worker hears SIGTERM
    notice = job_config.notice_seconds
    preemption = PreemptionHandler(turn, min(GRACE, notice / 2) if notice else GRACE)
    try:
        run_pool(_pool_config(submission, index, turn), folder, packs, preemption.tick)
    except Interrupted:
        pass  # what hard work has left there, the next turn settles
    except FaninError:
        if turn.exists():
            raise
    if preemption.came is None:
        return end_turn(turn)
    if not turn.exists():
        print(TAKEN_OVER)
        return 0
    return requeue(submission, index, turn, packs, before, preemption.came)


def _has_earlier_turns(right: Path, turn: Path) -> bool:
    """Return True if turns before this one have left something."""
    with suppress(FileNotFoundError):  # all is taken back: so the first journal will find
        return any(path != turn for path in right.iterdir())
    return False


def _pool_config(submission: Submission, index: int, turn: Path) -> PoolConfig:
    job_config = submission.job_config
    slots = devices(job_config.device)
    # On a GPU, Slurm's own limit is the limit.
    given = job_config.memory_gb if slots[0] == "cpu" else None
    return PoolConfig(
        _workers(job_config, slots),
        slots,
        None if given is None else int(given * GIB),
        job_config.cell_seconds,
        job_config.checkpoint_seconds,
        job_config.code,
        dict(job_config.modules),
        str(turn),
        f"{submission.token}-{index}-",
    )


def _workers(job_config: JobConfig, slots: Sequence[str]) -> int:
    if job_config.workers is not None:
        return job_config.workers
    if slots[0] != "cpu":
        return len(slots)
    return int(os.environ.get("SLURM_CPUS_PER_TASK", 0)) or cores()


def progress_snapshot(folder: SweepFolder, packs: Sequence[Pack]) -> ProgressSnapshot:
    """Return the saved progress of each cell."""
    cells = [task.cell_id for pack in packs for task in pack.cells]
    return {cell: saved_progress(folder.checkpoints / f"{cell}.pt") for cell in cells}


def requeue(
    submission: Submission,
    index: int,
    turn: Path,
    packs: Sequence[Pack],
    before: ProgressSnapshot,
    came: signal.Signals,
) -> int:
    """Requeue a job that a signal told to end, when its workers have; return the exit status.

    `before` is the progress of the cells when the turn began.
    """
    folder, attempts = submission.folder, submission.job_config.attempts
    left = remaining_cells(packs, read_states(folder), attempts)
    now = progress_snapshot(folder, left)
    moved = len(now) < len(before) or any(now[cell] > before[cell] for cell in now)
    idle = _count_stalled(submission.path / f"idle-{index}", moved)
    if idle >= MAX_STALLED:
        if not _time_out_stalled(folder, turn, packs, idle):
            print(f"stopped {idle} times before any cell had begun: {TOO_SHORT}", file=sys.stderr)
            return EXIT_STOPPED
        left = remaining_cells(packs, read_states(folder), attempts)
    if not left:
        return end_turn(turn)
    job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{index}"
    try:
        if came is not signal.SIGUSR2 and not _is_running(job):
            return EXIT_STOPPED
        call("scontrol", "requeue", job)
    except SlurmError as error:
        print(f"{error}; the sweep's launcher submits the rest anew", file=sys.stderr)
        return EXIT_STOPPED
    print(f"requeued {job}: {sum(len(pack.cells) for pack in left)} cells are left", flush=True)
    time.sleep(60)  # until Slurm ends it: an end of its own would count as the job's
    return EXIT_STOPPED


def made_progress(submission: Submission, index: int) -> bool:
    """Return True if an element's last interrupted turn is known to have made progress."""
    with suppress(OSError):
        return (submission.path / f"idle-{index}").read_text() == "0"
    return False


def _is_running(job: str) -> bool:
    """Return True if Slurm lists a job as running: preempted, with some time left.

    Else it has been cancelled, requeued, or its time is up: then it has ended for Slurm.
    """
    return "RUNNING" in call("squeue", "-h", "-t", "all", "-j", job, "-o", "%T")


def _count_stalled(note: Path, moved: bool) -> int:
    """Count the turns in a row that made no progress."""
    count = 0
    with suppress(OSError, ValueError):
        count = int(note.read_text())
    count = 0 if moved else count + 1
    note.write_text(str(count))
    return count


def _time_out_stalled(folder: SweepFolder, turn: Path, packs: Sequence[Pack], count: int) -> bool:
    """End cells that no job has time for, so that others get their turn; False: none was running.

    Workers that got to the end of a step have ended well: those that did not have left journals.
    """
    tasks = {task.cell_id: task for pack in packs for task in pack.cells}
    reason = f"stopped {count} times before it got anywhere: {TOO_SHORT}"
    found = [
        finalize_journal(folder, journal, tasks, "timeout", reason, fail_all=True)
        for journal in journals_in(turn).values()
    ]
    return any(each is not None and each.failed for each in found)
