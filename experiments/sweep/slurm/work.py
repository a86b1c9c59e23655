"""A job's turn at its shard: settle what earlier turns left, run the rest, requeue if need be."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pebble import CONSTS

from experiments.sweep.interrupts import Interrupted
from experiments.sweep.runners.devices import cores, devices
from experiments.sweep.runners.pool import PoolConfig, run_pool
from experiments.sweep.slurm.cause import earlier_end
from experiments.sweep.slurm.left import left_of
from experiments.sweep.slurm.notice import Notice
from experiments.sweep.slurm.stop import standing, stop
from experiments.sweep.slurm.submission import Duty, Submission
from experiments.sweep.slurm.turn import TAKEN_OVER, end_turn, settle_lost, take_turn
from experiments.sweep.store.tables import read_states
from experiments.sweep.worker.limits import GIB
from fanin.errors import FaninError

GRACE = 20.0  # seconds that workers have at most to keep what they are at


def work(submission: Submission, index: int) -> int:
    """Run an element's shard as far as Slurm lets it; return the exit status."""
    restart = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    right = submission.right(index)
    turn = take_turn(right, restart)
    if turn is None:
        print("nothing to do: these cells have ended, were taken back, or run elsewhere")
        return 0
    folder, duty = submission.folder, submission.duty
    packs = list(submission.shard(index))
    if restart or _others(right, turn):
        tasks = {task.cell_id: task for pack in packs for task in pack.cells}
        settle_lost(folder, right, tasks, *earlier_end(submission, index))
        packs = left_of(packs, read_states(folder), duty.attempts)
    before = standing(folder, packs)
    CONSTS.term_timeout = 0  # no worker hears SIGTERM
    notice = Notice(turn, min(GRACE, duty.notice_seconds / 2) if duty.notice_seconds else GRACE)
    try:
        run_pool(_crew(submission, index, turn), folder, packs, notice.tick)
    except Interrupted:
        pass  # what hard work has left there, the next turn settles
    except FaninError:
        if turn.exists():
            raise
    if notice.came is None:
        return end_turn(turn)
    if not turn.exists():
        print(TAKEN_OVER)
        return 0
    return stop(submission, index, turn, packs, before, notice.came)


def _others(right: Path, turn: Path) -> bool:
    """Whether there were turns before this one that have left something."""
    with suppress(FileNotFoundError):  # all is taken back: so the first journal will find
        return any(path != turn for path in right.iterdir())
    return False


def _crew(submission: Submission, index: int, turn: Path) -> PoolConfig:
    duty = submission.duty
    slots = devices(duty.device)
    given = duty.memory_gb if slots[0] == "cpu" else None  # else Slurm's own limit is the limit
    return PoolConfig(
        _workers(duty, slots),
        slots,
        None if given is None else int(given * GIB),
        duty.cell_seconds,
        duty.checkpoint_seconds,
        duty.code,
        dict(duty.modules),
        str(turn),
        f"{submission.token}-{index}-",
    )


def _workers(duty: Duty, slots: Sequence[str]) -> int:
    if duty.workers is not None:
        return duty.workers
    if slots[0] != "cpu":
        return len(slots)
    return int(os.environ.get("SLURM_CPUS_PER_TASK", 0)) or cores()
