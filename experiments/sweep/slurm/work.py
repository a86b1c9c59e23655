"""A job's turn at its shard: settle what earlier turns left, run the rest, requeue if need be."""

from __future__ import annotations

import os
import signal
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from experiments.errors import FaninError
from experiments.sweep.planning.pack import Pack, Task
from experiments.sweep.runner.devices import cores, devices
from experiments.sweep.runner.pool import Crew, run_pool
from experiments.sweep.running.interrupts import Interrupted
from experiments.sweep.running.limits import GIB
from experiments.sweep.running.rows import failed, identified
from experiments.sweep.slurm import calls
from experiments.sweep.slurm.cause import earlier_end
from experiments.sweep.slurm.notice import Notice
from experiments.sweep.slurm.submission import Duty, Submission
from experiments.sweep.slurm.turn import give_back, settle_lost, take_turn
from experiments.sweep.store.parquet import write_results
from experiments.sweep.store.state import INTERRUPTED, CellState, read_states

GRACE = 20.0  # seconds that workers have to keep what they are at
FRUITLESS = 3  # turns in a row that get nowhere, after which a cell is given up
OVER = 75  # exit status of a job that was stopped and could not requeue itself (sysexits.h)


def work(submission: Submission, index: int) -> int:
    """Run an element's shard as far as Slurm lets it; return the exit status."""
    restart = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    right = submission.right(index)
    turn = take_turn(right, restart)
    if turn is None:
        print("nothing to do: these cells have ended, were taken back, or run elsewhere")
        return 0
    folder, duty = submission.folder, submission.duty
    shard = submission.shard(index)
    tasks = {task.cell_id: task for pack in shard for task in pack.tasks}
    if any(path != turn for path in right.iterdir()):
        settle_lost(folder, right, tasks, *earlier_end(submission, index))
        packs = left_of(shard, read_states(folder), duty.attempts)
    else:
        packs = list(shard)
    notice = Notice(turn, GRACE)
    began = time.time()
    try:
        run_pool(_crew(submission, index, turn), folder, packs, notice.tick)
    except Interrupted:
        pass  # what hard work has left there, the next turn settles
    except FaninError:
        if turn.exists():
            raise
    if notice.came is None:
        return _end(turn, right)
    if not turn.exists():
        print("somebody else has taken these cells over")
        return 0
    return _stop(submission, index, turn, packs, began, notice.came)


def left_of(packs: Sequence[Pack], states: Mapping[str, CellState], attempts: int) -> list[Pack]:
    """What is still to be run of a shard: cells that have no result, or lost theirs with a job.

    Parameters
    ----------
    packs
        The shard, as it was handed out.
    states
        The latest attempt of every cell.
    attempts
        How often a cell is begun before it is given up.
    """
    left = []
    for pack in packs:
        tasks = tuple(
            task if state is None else replace(task, attempt=state.attempt + 1)
            for task in pack.tasks
            for state in [states.get(task.cell_id)]
            if state is None
            or state.attempt < task.attempt
            or (state.outcome in INTERRUPTED and state.attempt - task.attempt + 1 < attempts)
        )
        if tasks:
            left.append(replace(pack, tasks=tasks))
    return left


def _crew(submission: Submission, index: int, turn: Path) -> Crew:
    duty = submission.duty
    slots = devices(duty.device)
    given = duty.memory_gb if slots[0] == "cpu" else None  # else Slurm's own limit is the limit
    return Crew(
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


def _end(turn: Path, right: Path) -> int:
    """All cells have ended: so has the right to run them."""
    if give_back(turn):
        with suppress(OSError):  # a newer turn's, which finds nothing to do
            right.rmdir()
    else:
        print("somebody else has taken these cells over")
    return 0


def _stop(
    submission: Submission,
    index: int,
    turn: Path,
    packs: Sequence[Pack],
    began: float,
    came: signal.Signals,
) -> int:
    """Go on in another run of the same job, where that gets anywhere."""
    folder = submission.folder
    states = read_states(folder)
    left = left_of(packs, states, submission.duty.attempts)
    if not left:
        return _end(turn, submission.right(index))
    ids = [task.cell_id for pack in left for task in pack.tasks]
    kept = (folder.checkpoints / f"{cell}.pt" for cell in ids)
    before = {task.cell_id for pack in packs for task in pack.tasks}
    moved = len(ids) < len(before) or any(_newer(path, began) for path in kept)
    count = _fruitless(submission.path / f"idle-{index}", moved)
    if count >= FRUITLESS:
        _give_up(submission, index, left[0].tasks[0], count)
    if came is not signal.SIGUSR2:
        return OVER  # Slurm itself requeues what it preempts, and not what is cancelled
    job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{index}"
    try:
        calls.call("scontrol", "requeue", job)
    except calls.SlurmError as error:
        print(f"{error}; the sweep's launcher submits the rest anew", file=sys.stderr)
        return OVER
    print(f"requeued {job}: {len(ids)} cells are left", flush=True)
    time.sleep(60)  # until Slurm ends it: an end of its own would count as the job's
    return OVER


def _newer(path: Path, began: float) -> bool:
    with suppress(OSError):
        return path.stat().st_mtime > began
    return False


def _fruitless(note: Path, moved: bool) -> int:
    """Count the turns in a row that got nowhere."""
    count = 0
    with suppress(OSError, ValueError):
        count = int(note.read_text())
    count = 0 if moved else count + 1
    note.write_text(str(count))
    return count


def _give_up(submission: Submission, index: int, task: Task, count: int) -> None:
    """A cell that no job has time for ends, so that the others get their turn."""
    reason = (
        f"stopped {count} times before it got anywhere: its jobs are too short for it "
        "(runner.slurm.time_minutes)"
    )
    result = failed(task, "timeout", reason)
    row = identified(task, result.row, None, None)
    stem = f"{submission.token}-{index}-{uuid.uuid4().hex}"
    write_results(submission.folder, stem, [replace(result, row=row)])
