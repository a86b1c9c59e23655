"""Run several cells as one program: draws and evaluation one by one, training together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from experiments.cell import CellRun
from experiments.result import CellResult
from experiments.training.checkpoint import Checkpointer, Stopped
from experiments.training.loop import OnProgress, TrainResult, train_stacked

# A user's own init scheme or network may do anything, `sys.exit` too. A real Ctrl-C is the
# launcher's, and raises another exception (`Interrupted`).
FAILURES = (Exception, SystemExit, KeyboardInterrupt)
CellEnd = tuple[int, CellResult | BaseException]


def run_stack(
    configs: Sequence[Mapping[str, Any]],
    device: torch.device,
    on_progress: OnProgress = lambda done, total: None,
    checkpointers: Sequence[Checkpointer] | None = None,
) -> Iterator[CellEnd]:
    """Measure and train the cells that coerced configs describe, as one program.

    A cell's result does not depend on the cells beside it. If training fails as a whole (the
    device's memory is full, say) the stack is halved, until the cell that fails is alone. Each cell
    resumes from its checkpoint, if it has one; cells at different steps (their process died between
    two checkpoints) train as one stack for each step.

    Parameters
    ----------
    configs
        Configs for which `experiments.training.engines.why_serial` returns None, alike in all but
        init, scaling, seeds and the optimizer's numbers.
    device, on_progress
        As for `run_cell`.
    checkpointers
        One a cell, as for `run_cell`; alike in `every` and `stop`.

    Yields
    ------
    tuple
        Index in `configs`, and the cell's result or exception, as each one ends.

    Raises
    ------
    Stopped
        The checkpointers' `stop` returned True; cells not yet yielded have saved checkpoints.
    """
    runs: dict[int, CellRun] = {}
    for index, config in enumerate(configs):
        checkpointer = None if checkpointers is None else checkpointers[index]
        try:
            run = CellRun.start(config, device, on_progress, checkpointer, engine="stacked")
            run.measure_draws()
            runs[index] = run
        except FAILURES as error:
            yield index, error
        except Stopped:
            for other in runs.values():
                other.save(other.train_state)
            raise
    for step in sorted({_first_step(run) for run in runs.values()}, reverse=True):
        group = {index: run for index, run in runs.items() if _first_step(run) == step}
        yield from _train(group, device, on_progress)


def _first_step(run: CellRun) -> int:
    return 0 if run.train_state is None else run.train_state.step


def _train(
    runs: Mapping[int, CellRun], device: torch.device, on_progress: OnProgress
) -> Iterator[CellEnd]:
    """Train the runs as one stack; if that fails, in halves."""
    indices = list(runs)
    left = set(indices)
    training = train_stacked([run.train_spec() for run in runs.values()], on_progress)
    while left:
        try:
            place, trained = next(training)
        except FAILURES as error:
            if len(left) == 1:
                yield left.pop(), error
                return
            break
        index = indices[place]
        left.remove(index)
        yield index, _finished(runs[index], trained)
    rest = sorted(left)
    for half in (rest[: len(rest) // 2], rest[len(rest) // 2 :]):
        if half:  # from their checkpoints: probes made since then are made again
            configs = [runs[index].config for index in half]
            checkpointers = [
                each for index in half if (each := runs[index].checkpointer) is not None
            ]
            for place, end in run_stack(configs, device, on_progress, checkpointers or None):
                yield half[place], end


def _finished(run: CellRun, trained: TrainResult) -> CellResult | BaseException:
    try:
        return run.finish(trained)
    except FAILURES as error:
        return error
