"""One run of an array task: finalize earlier runs, run the remaining cells, requeue on a signal."""

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
from experiments.sweep.runners.devices import available_cores, devices
from experiments.sweep.runners.pool import PoolConfig, run_pool
from experiments.sweep.slurm.commands import SlurmError, run_slurm
from experiments.sweep.slurm.exit_cause import previous_run_cause
from experiments.sweep.slurm.lease import LEASE_LOST, acquire, finalize_expired, release
from experiments.sweep.slurm.preemption import PreemptionHandler
from experiments.sweep.slurm.shards import remaining_cells
from experiments.sweep.slurm.submission import JobConfig, Submission
from experiments.sweep.store.journal import journals_in
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.tables import read_states
from experiments.sweep.types import GIB, Pack
from experiments.sweep.worker.finalize import finalize_journal
from experiments.training.checkpoint import saved_progress
from fanin.errors import FaninError

GRACE = 20.0  # maximum seconds that workers have to save their state
MAX_STALLED = 3  # runs in a row without progress, after which a running cell times out
EXIT_STOPPED = 75  # exit status of a job that was stopped and does not continue (EX_TEMPFAIL)
TOO_SHORT = "the time limit of the jobs is too short; increase runner.slurm.time_minutes"

ProgressSnapshot = Mapping[str, tuple[int, int]]  # saved progress by cell id


def run_shard(submission: Submission, index: int) -> int:
    """Run the packs of an array task until they are finished or Slurm stops the job.

    Returns the exit status.
    """
    restart = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    lease_dir = submission.lease_dir(index)
    writer_dir = acquire(lease_dir, restart)
    if writer_dir is None:
        print("Nothing to do: these cells have ended, were reclaimed or run in another process.")
        return 0
    folder, job_config = submission.folder, submission.job_config
    packs = list(submission.shard(index))
    if restart or _has_other_writers(lease_dir, writer_dir):
        cells = {cell.cell_id: cell for pack in packs for cell in pack.cells}
        finalize_expired(folder, lease_dir, cells, *previous_run_cause(index))
        packs = remaining_cells(packs, read_states(folder), job_config.attempts)
    before = progress_snapshot(folder, packs)
    CONSTS.term_timeout = 0  # workers ignore SIGTERM, so do not wait for it
    signal_seconds = job_config.signal_seconds
    grace = min(GRACE, signal_seconds / 2) if signal_seconds else GRACE
    preemption = PreemptionHandler(writer_dir, grace)
    try:
        run_pool(_pool_config(submission, index, writer_dir), folder, packs, preemption.heartbeat)
    except Interrupted:
        pass  # the next run finalizes the journals of workers that did not stop in time
    except FaninError:
        if writer_dir.exists():
            raise
    if preemption.received is None:
        return release(writer_dir)
    if not writer_dir.exists():
        print(LEASE_LOST)
        return 0
    return requeue(submission, index, writer_dir, packs, before, preemption.received)


def _has_other_writers(lease_dir: Path, writer_dir: Path) -> bool:
    """Return True if earlier runs have left writer folders."""
    with suppress(FileNotFoundError):  # the lease is revoked, so creating a journal will fail
        return any(path != writer_dir for path in lease_dir.iterdir())
    return False


def _pool_config(submission: Submission, index: int, writer_dir: Path) -> PoolConfig:
    job_config = submission.job_config
    slots = devices(job_config.device)
    # On a GPU only Slurm's own memory limit applies.
    memory_gb = job_config.memory_gb if slots[0] == "cpu" else None
    return PoolConfig(
        worker_count(job_config, slots),
        slots,
        None if memory_gb is None else int(memory_gb * GIB),
        job_config.cell_seconds,
        job_config.checkpoint_seconds,
        job_config.code,
        dict(job_config.modules),
        str(writer_dir),
        f"{submission.token}-{index}-",
    )


def worker_count(job_config: JobConfig, slots: Sequence[str]) -> int:
    """Return the number of workers of a job on a node with these devices."""
    if job_config.workers is not None:
        return job_config.workers
    if slots[0] != "cpu":
        return len(slots)
    return int(os.environ.get("SLURM_CPUS_PER_TASK", 0)) or available_cores()


def progress_snapshot(folder: SweepFolder, packs: Sequence[Pack]) -> ProgressSnapshot:
    """Return the saved progress of each cell."""
    cell_ids = [cell.cell_id for pack in packs for cell in pack.cells]
    return {cell_id: saved_progress(folder.checkpoints / f"{cell_id}.pt") for cell_id in cell_ids}


def requeue(
    submission: Submission,
    index: int,
    writer_dir: Path,
    packs: Sequence[Pack],
    before: ProgressSnapshot,
    received: signal.Signals,
) -> int:
    """Requeue this task after a signal, when its workers have stopped; return the exit status.

    `before` is the progress of the cells when this run started.
    """
    folder, attempts = submission.folder, submission.job_config.attempts
    remaining = remaining_cells(packs, read_states(folder), attempts)
    now = progress_snapshot(folder, remaining)
    progressed = len(now) < len(before) or any(now[cell_id] > before[cell_id] for cell_id in now)
    stalled = _count_stalled(_stalled_file(submission, index), progressed)
    if stalled >= MAX_STALLED:
        if not _time_out_stalled(folder, writer_dir, packs, stalled):
            print(
                f"Stopped {stalled} times before a cell had started: {TOO_SHORT}.", file=sys.stderr
            )
            return EXIT_STOPPED
        remaining = remaining_cells(packs, read_states(folder), attempts)
    if not remaining:
        return release(writer_dir)
    job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{index}"
    try:
        if received is not signal.SIGUSR2 and not _is_running(job):
            return EXIT_STOPPED
        run_slurm("scontrol", "requeue", job)
    except SlurmError as error:
        print(f"{error}; the launcher will resubmit the remaining cells", file=sys.stderr)
        return EXIT_STOPPED
    count = sum(len(pack.cells) for pack in remaining)
    print(f"Requeued job {job}; remaining cells: {count}.", flush=True)
    time.sleep(60)  # until Slurm ends this process: if it exited by itself, the job would end
    return EXIT_STOPPED


def made_progress(submission: Submission, index: int) -> bool:
    """Return True if a task's last interrupted run is known to have made progress."""
    with suppress(OSError):
        return _stalled_file(submission, index).read_text() == "0"
    return False


def _stalled_file(submission: Submission, index: int) -> Path:
    return submission.path / f"stalled-{index}"


def _is_running(job: str) -> bool:
    """Return True if Slurm lists a job as running: it is being preempted and has time left.

    Otherwise Slurm has already ended it: it was cancelled or requeued, or its time is up.
    """
    return "RUNNING" in run_slurm("squeue", "-h", "-t", "all", "-j", job, "-o", "%T")


def _count_stalled(path: Path, progressed: bool) -> int:
    """Update and return the number of runs in a row without progress."""
    count = 0
    with suppress(OSError, ValueError):
        count = int(path.read_text())
    count = 0 if progressed else count + 1
    path.write_text(str(count))
    return count


def _time_out_stalled(
    folder: SweepFolder, writer_dir: Path, packs: Sequence[Pack], count: int
) -> bool:
    """Give stalled cells the outcome `timeout`; return False if no cell was running.

    A worker that reached the end of a training step has removed its journal, so the journals that
    are left belong to stalled cells.
    """
    cells = {cell.cell_id: cell for pack in packs for cell in pack.cells}
    reason = f"stopped {count} times without progress: {TOO_SHORT}"
    finalized = [
        finalize_journal(folder, journal, cells, "timeout", reason, fail_all=True)
        for journal in journals_in(writer_dir).values()
    ]
    return any(journal is not None and journal.failed for journal in finalized)
