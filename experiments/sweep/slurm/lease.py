"""Leases: only the newest process of a job may write, and nobody once its shard is reclaimed.

A shard's lease is a folder, `journals/TOKEN-NUMBER/`. Slurm may start a job again while an older
process of it still runs, on a node that is cut off. So each process works in a folder of its own
within the lease's, and the newest one renames those of all others: a journal there can then be
neither begun, nor taken by its writer. A launcher that reclaims the shard renames the whole lease.
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
from experiments.sweep.slurm.commands import Key
from experiments.sweep.store.journal import TAKEN, journals_in, read_events
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.types import PackedCell
from experiments.sweep.worker.finalize import finalize_journal, follow

TAKEN_OVER = "somebody else has taken these cells over"


def acquire(right: Path, restart: int) -> Path | None:
    """Take the lease over from older processes; return the folder to write journals to.

    `restart` is how often Slurm has started the job again. None: the shard was reclaimed, or a
    newer process has the lease.
    """
    own = right / f"{restart:05d}-{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
    with writing(own):
        try:
            own.mkdir()
        except FileNotFoundError:
            return None
    try:
        turns = [path for path in right.iterdir() if not path.name.endswith(TAKEN)]
    except FileNotFoundError:  # taken back this very moment, with what was made in it
        return None
    if any(path.name > own.name for path in turns):
        with suppress(OSError):
            own.rmdir()
        return None
    for path in turns:
        if path != own:
            with suppress(FileNotFoundError):  # its process has just ended well
                path.rename(path.with_name(path.name + TAKEN))
    return own


def settle_lost(
    folder: SweepFolder, right: Path, tasks: Mapping[str, PackedCell], outcome: str, reason: str
) -> int:
    """Finalize the journals of expired processes; return how many cells had ended or were running.

    Finished cells keep their results; cells that were running get the outcome and the reason.
    Of several that ran out of memory together nobody knows which was too big: those are
    `killed`, to run again.
    """
    count = 0
    folders = list(_lost(right))
    journals = [journal for lost in folders for journal in journals_in(lost).values()]
    if outcome == "oom" and (several := sum(map(_at_work, journals))) > 1:
        outcome, reason = (
            "killed",
            f"{reason}; {several} cells were at work, of which it may be any",
        )
    for journal in journals:
        settled = finalize_journal(folder, journal, tasks, outcome, reason, fail_all=True)
        if settled is not None:
            count += len(settled.finished | settled.failed)
    for lost in folders:
        shutil.rmtree(lost, ignore_errors=True)
    return count


def _at_work(journal: Path) -> int:
    """Count the cells of a journal that have begun and not ended."""
    begun: dict[str, int] = {}
    with suppress(FileNotFoundError):
        follow(begun, read_events(journal)[0])
    return len(begun)


def _lost(right: Path) -> Iterator[Path]:
    with suppress(FileNotFoundError):
        names = sorted(os.listdir(right))
        yield from (right / name for name in names if name.endswith(TAKEN))


def end_turn(own: Path) -> int:
    """Give the lease up when all cells have ended; return the exit status."""
    try:
        shutil.rmtree(own)
    except FileNotFoundError:
        print(TAKEN_OVER)
        return 0
    with suppress(OSError):  # a newer turn's, which finds nothing to do
        own.parent.rmdir()
    return 0


def take_back(right: Path) -> Path | None:
    """Rename a shard's lease, so that its job can publish nothing more; None: it has ended."""
    taken = right.with_name(right.name + TAKEN)
    with writing(right):
        try:
            right.rename(taken)
        except FileNotFoundError:
            return taken if taken.is_dir() else None
    return taken


def expire(taken: Path) -> None:
    """Expire every process's folder in a lease that was taken back."""
    for path in taken.iterdir():
        if not path.name.endswith(TAKEN):
            path.rename(path.with_name(path.name + TAKEN))


@dataclass
class StaleJobDetector:
    """Finds jobs that Slurm lists as running and whose processes have stopped touching their lease.

    After some accidents (a node that is back before it was missed, a controller that has
    forgotten its last seconds) Slurm lists a job as running of which no process is left.
    `limit` is in seconds.
    """

    limit: float
    _heard: dict[Key, tuple[float, float]] = field(default_factory=dict)  # stamp, when it was new

    def over(self, rights: Mapping[Key, Path]) -> list[Key]:
        """Return the running elements that have been silent for too long."""
        now = time.monotonic()
        heard = {}
        for key, right in rights.items():
            stamp = _stamp(right)
            before = self._heard.get(key)
            # Stamps are only compared with each other: no host's clock with another's.
            heard[key] = before if before is not None and before[0] == stamp else (stamp, now)
        self._heard = heard
        return sorted(key for key, (_, since) in heard.items() if now - since > self.limit)


def _stamp(right: Path) -> float:
    """Return the time of the last sign of life; 0 before the first."""
    with suppress(FileNotFoundError), os.scandir(right) as turns:
        return max((turn.stat().st_mtime for turn in turns), default=0.0)
    return 0.0
