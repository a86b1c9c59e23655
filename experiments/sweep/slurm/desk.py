"""Hands shards to Slurm as there is room for them, and takes back those whose jobs have died."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from experiments.atomic_write import atomic_write
from experiments.sweep.slurm import calls
from experiments.sweep.slurm.cause import Cause, cause, printed_by
from experiments.sweep.slurm.left import alone, left_of
from experiments.sweep.slurm.log import log
from experiments.sweep.slurm.queue import Ended, Key, Waiting, ended, waiting
from experiments.sweep.slurm.shards import Shard
from experiments.sweep.slurm.silence import Silence
from experiments.sweep.slurm.stop import got_somewhere
from experiments.sweep.slurm.submission import (
    Duty,
    Submission,
    open_submissions,
    write_submission,
)
from experiments.sweep.slurm.submit import submit
from experiments.sweep.slurm.withdraw import bring_home
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.tables import read_states
from fanin.errors import FaninError

CONFIRMED = 8.0  # seconds for which a job must be missing: Slurm requeues those of dead nodes
WITHOUT_ACCOUNTS = 60.0  # seconds after which a missing job's end is settled without sacct
TRIES = 3  # jobs in a row that die before any cell of theirs begins

Script = Callable[[Submission], str]


@dataclass
class Desk:
    """What one launcher does about a sweep's jobs.

    Parameters
    ----------
    folder
        The sweep's.
    duty
        How jobs work that are submitted from here.
    script
        The batch script of a submission.
    array_size
        Most elements of an array.
    max_jobs
        Most elements that may wait or run at once; None: as many as Slurm takes.
    beat
        Called now and then.
    silence
        Finds jobs of which nothing is left though Slurm says they run.
    """

    folder: SweepFolder
    duty: Duty
    script: Script
    array_size: int
    max_jobs: int | None
    beat: Callable[[], None]
    silence: Silence
    queue: deque[tuple[Shard, int]] = field(default_factory=deque)  # with their fruitless tries
    dead: list[str] = field(default_factory=list)  # how jobs ended that are not tried again
    _names: set[str] = field(default_factory=set)
    _noted: set[str] = field(default_factory=set)
    _missing: dict[Key, float] = field(default_factory=dict)

    def add(self, shards: Iterable[Shard]) -> None:
        """Shards to be handed out."""
        self.queue.extend((shard, 0) for shard in shards)

    def adopt(self) -> None:
        """Submit what an earlier launcher wrote down and, as it seems, never submitted.

        Raises
        ------
        SlurmError
            As `submit`.
        """
        for submission in open_submissions(self.folder):
            if submission.job_id() is None:
                self._submit(submission)

    def hand_out(self) -> None:
        """Submit as many of the shards as there is room for.

        Raises
        ------
        SlurmError
            Slurm refuses them.
        """
        room = self._room()
        while self.queue and room > 0:
            tries = self.queue[0][1]
            part: list[Shard] = []
            while self.queue and len(part) < min(room, self.array_size):
                if self.queue[0][1] != tries:
                    break
                part.append(self.queue.popleft()[0])
            submission = write_submission(self.folder, part, replace(self.duty, tries=tries))
            try:
                self._submit(submission)
            except calls.SlurmFull as error:
                self.queue.extendleft((shard, tries) for shard in reversed(part))
                self._note(f"{error}; the rest is submitted when there is room")
                return
            room -= len(part)

    def look(self) -> None:
        """Find out about jobs that are gone with cells of theirs not ended, and see to those.

        Where nobody answers, nothing is decided.
        """
        there = {s.job_name: s for s in open_submissions(self.folder)}
        wanted = {(name, i) for name, s in there.items() for i in s.open_elements()}
        try:
            alive = waiting(there)
        except calls.SlurmAway as error:
            self._note(f"{error}; nothing is decided until it answers")
            self._missing.clear()  # an absence counts while it is seen
            return
        self._names |= there.keys()
        running = (key for key in wanted if key in alive and alive[key].state == "RUNNING")
        for key in self.silence.over({key: there[key[0]].right(key[1]) for key in running}):
            self._give_up(there[key[0]], alive[key])
        now = time.monotonic()
        self._missing = {key: self._missing.get(key, now) for key in wanted - alive.keys()}
        gone = {key for key, since in self._missing.items() if now - since >= CONFIRMED}
        if not gone:
            return
        names = {name for name, _ in gone}
        patience = 0.0
        try:
            runs, accounts = ended(names, min(there[name].since for name in names)), True
        except calls.SlurmUnaccounted:
            runs, accounts = {}, False
        except calls.SlurmError as error:
            self._note(f"{error}; how jobs ended is settled without it if it stays so")
            runs, accounts, patience = {}, False, WITHOUT_ACCOUNTS
        for key in sorted(gone):
            last = runs[key][-1] if runs.get(key) else None
            if last is not None and last.state.split()[0] in calls.UNDER_WAY:
                continue  # the accounts lag behind
            if now - self._missing[key] >= patience:
                self._bury(there[key[0]], key[1], last, accounts)

    @property
    def idle(self) -> bool:
        """Whether there is nothing left to hand out or to wait for."""
        return not self.queue and not open_submissions(self.folder)

    def _submit(self, submission: Submission) -> None:
        atomic_write(submission.script, self.script(submission).encode())
        try:
            submit(submission, self.beat)
        except calls.SlurmAway:
            raise  # it may be in the queue all the same: what is written down stays
        except calls.SlurmError:
            submission.forget()
            raise

    def _room(self) -> int:
        if self.max_jobs is None or not self.queue:
            return len(self.queue)
        there = open_submissions(self.folder)
        self._names |= {submission.job_name for submission in there}
        try:  # jobs that have just ended count for a while
            queued = len(waiting(self._names))
        except calls.SlurmError:
            return 0
        taken = max(queued, sum(len(submission.open_elements()) for submission in there))
        return min(len(self.queue), self.max_jobs - taken)

    def _give_up(self, submission: Submission, ghost: Waiting) -> None:
        """Take the shard of a job back that Slurm, and nobody else, holds for running."""
        said = f"nothing was heard of it on {ghost.node} for {self.silence.limit:g} s"
        self._take_home(submission, ghost.index, ("node_fail", f"{said} (job {ghost.job_id})"))
        with suppress(calls.SlurmError):
            calls.call("scancel", ghost.job_id)

    def _bury(self, submission: Submission, index: int, last: Ended | None, accounts: bool) -> None:
        """Take a dead job's shard back."""
        printed = printed_by(submission, index)
        self._take_home(submission, index, cause(last, printed, accounts))

    def _take_home(self, submission: Submission, index: int, why: Cause) -> None:
        """Keep what a job has finished, and queue the rest again."""
        shard = submission.shard(index)
        printed = printed_by(submission, index)
        outcome, reason = why
        begun = bring_home(submission, index, outcome, reason)
        if begun is None:  # it has ended well meanwhile
            return
        rest = tuple(left_of(shard, read_states(self.folder), submission.duty.attempts))
        self._note(f"{submission.job_name}[{index}]: {reason}")
        if not rest or outcome == "cancelled":
            return
        fewer = sum(len(pack.cells) for pack in rest) < sum(len(pack.cells) for pack in shard)
        moved = begun or fewer or got_somewhere(submission, index)
        tries = 0 if moved else submission.duty.tries + 1
        if tries == 0 or (tries < TRIES and not self.dead):
            # Whose memory was too much shows when each runs by itself.
            parts = alone(rest, shard) if outcome == "oom" else [rest]
            self.queue.extend((part, tries) for part in parts)
            return
        log = submission.logs / f"{submission.job_id()}_{index}_0_log.err"
        said = printed.strip().splitlines()
        self.dead.append(f"{reason}; it said: {said[-1] if said else 'nothing'} ({log})")

    def close(self) -> None:
        """To be called when all has ended: nothing of ours is to stay in the queue.

        Raises
        ------
        FaninError
            Jobs died before they began a cell.
        """
        with suppress(calls.SlurmError):  # such as were requeued when their cells had ended
            left = waiting(self._names).values()
            ids = [each.job_id for each in left if each.state == "PENDING"]
            if ids:
                calls.call("scancel", *ids)
        if self.dead:
            raise FaninError(
                f"jobs have died {TRIES} times before they began a cell, the last one as "
                f"{self.dead[-1]}; when that is mended, the same command goes on from here"
            )

    def _note(self, text: str) -> None:
        """Say once what has happened."""
        if text not in self._noted:
            self._noted.add(text)
            log(self.folder, text)


def arrays_needed(shards: Sequence[Shard], array_size: int) -> list[int]:
    """How many elements each array has that shards are handed out in.

    Examples
    --------
    >>> arrays_needed([()] * 25, 11)
    [11, 11, 3]
    """
    whole, rest = divmod(len(shards), array_size)
    return [array_size] * whole + [rest] * (rest > 0)
