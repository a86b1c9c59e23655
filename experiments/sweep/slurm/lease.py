"""Leases: a fencing token that lets only the newest process of a job write its shard.

A shard's lease is the folder `journals/TOKEN-INDEX/`. Slurm may start a job again while an older
process of it still runs on a node that is cut off from the network. So each process writes its
journals to a writer folder of its own inside the lease. `acquire` expires (renames) the writer
folders of all older processes: these can then neither start a journal nor commit one. A launcher
that reclaims a shard revokes (renames) the whole lease.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from experiments.atomic_write import writing
from experiments.sweep.slurm.commands import TaskKey
from experiments.sweep.store.journal import TAKEN_SUFFIX, journals_in, read_events
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.types import PackedCell
from experiments.sweep.worker.finalize import finalize_journal, update_running

LEASE_LOST = "lease lost: another process runs these cells now"


def acquire(lease_dir: Path, restart: int) -> Path | None:
    """Acquire the lease and expire its older writers; return the folder to write journals to.

    `restart` is the number of times Slurm has restarted the job. Returns None if the lease is
    revoked or a newer process has it.
    """
    writer_dir = lease_dir / f"{restart:05d}-{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
    with writing(writer_dir):
        try:
            writer_dir.mkdir()
        except FileNotFoundError:
            return None
    try:
        writers = [path for path in lease_dir.iterdir() if not path.name.endswith(TAKEN_SUFFIX)]
    except FileNotFoundError:  # revoked just now, with the new folder in it
        return None
    if any(path.name > writer_dir.name for path in writers):
        with suppress(OSError):
            writer_dir.rmdir()
        return None
    for path in writers:
        if path != writer_dir:
            with suppress(FileNotFoundError):  # its process has just released it
                path.rename(path.with_name(path.name + TAKEN_SUFFIX))
    return writer_dir


def release(writer_dir: Path) -> int:
    """Release the lease when all cells have ended; return the exit status."""
    try:
        shutil.rmtree(writer_dir)
    except FileNotFoundError:
        print(LEASE_LOST)
        return 0
    with suppress(OSError):  # a newer process has a folder there; it will find no cells left
        writer_dir.parent.rmdir()
    return 0


def revoke(lease_dir: Path) -> Path | None:
    """Rename a lease, so that its job cannot write any more; return the new path.

    Returns None if the job has released the lease.
    """
    revoked = lease_dir.with_name(lease_dir.name + TAKEN_SUFFIX)
    with writing(lease_dir):
        try:
            lease_dir.rename(revoked)
        except FileNotFoundError:
            return revoked if revoked.is_dir() else None
    return revoked


def expire_writers(lease_dir: Path) -> None:
    """Expire every writer folder of a revoked lease."""
    for path in lease_dir.iterdir():
        if not path.name.endswith(TAKEN_SUFFIX):
            path.rename(path.with_name(path.name + TAKEN_SUFFIX))


def finalize_expired(
    folder: SweepFolder, lease_dir: Path, cells: Mapping[str, PackedCell], outcome: str, reason: str
) -> int:
    """Finalize the journals of expired writers; return how many cells had ended or were running.

    Finished cells keep their results; cells that were running get the outcome and the reason.
    If several were running when the job ran out of memory, any of them may be the cause: they
    become `killed` and run again.
    """
    count = 0
    writer_dirs = list(_expired_writers(lease_dir))
    journals = [journal for path in writer_dirs for journal in journals_in(path).values()]
    if outcome == "oom" and (n_running := sum(map(_count_running, journals))) > 1:
        outcome, reason = (
            "killed",
            f"{reason}; {n_running} cells were running and any of them may be the cause",
        )
    for journal in journals:
        finalized = finalize_journal(folder, journal, cells, outcome, reason, fail_all=True)
        if finalized is not None:
            count += len(finalized.finished | finalized.failed)
    for path in writer_dirs:
        shutil.rmtree(path, ignore_errors=True)
    return count


def _count_running(journal: Path) -> int:
    """Count the cells of a journal that have started and not ended."""
    running: dict[str, int] = {}
    with suppress(FileNotFoundError):
        update_running(running, read_events(journal)[0])
    return len(running)


def _expired_writers(lease_dir: Path) -> Iterator[Path]:
    with suppress(FileNotFoundError):
        names = sorted(os.listdir(lease_dir))
        yield from (lease_dir / name for name in names if name.endswith(TAKEN_SUFFIX))


@dataclass
class StaleJobDetector:
    """Detector of jobs that Slurm lists as running although none of their processes is left.

    This happens if a node restarts before Slurm notices its failure, or if the controller restarts
    without its records of the last seconds. A job's process touches its lease while it starts, and
    then its writer folder, every few seconds; a job without a new time stamp for `timeout` seconds
    is stale.
    """

    timeout: float
    _stamps: dict[TaskKey, tuple[float, float]] = field(default_factory=dict)  # stamp, seen since

    def stale(self, lease_dirs: Mapping[TaskKey, Path]) -> list[TaskKey]:
        """Return the running tasks without a new time stamp for `timeout` seconds."""
        now = time.monotonic()
        stamps = {}
        for key, lease_dir in lease_dirs.items():
            stamp = _heartbeat_time(lease_dir)
            previous = self._stamps.get(key)
            # Stamps are only compared with each other, never with this host's clock.
            if previous is not None and previous[0] == stamp:
                stamps[key] = previous
            else:
                stamps[key] = (stamp, now)
        self._stamps = stamps
        return sorted(key for key, (_, seen) in stamps.items() if now - seen > self.timeout)


def _heartbeat_time(lease_dir: Path) -> float:
    """Return the time stamp of the last heartbeat; 0 if the lease is gone."""
    stamp = 0.0
    with suppress(FileNotFoundError), os.scandir(lease_dir) as entries:
        stamp = max([lease_dir.stat().st_mtime, *(entry.stat().st_mtime for entry in entries)])
    return stamp
