"""Run several cells as one stack: draws and evaluation one by one, training together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from experiments.cell import CellRun
from experiments.result import CellResult
from experiments.training.checkpoint import Checkpointer, Stopped
from experiments.training.device_memory import (
    MEASURED_NETWORKS,
    CudaMemory,
    equal_parts,
    networks_that_fit,
)
from experiments.training.loop import OnProgress, TrainResult, train_stacked

# Exceptions that count as a failure of the cell: a user's init scheme or network may raise
# anything, SystemExit included. A real Ctrl-C raises another exception (`Interrupted`).
FAILURES = (Exception, SystemExit, KeyboardInterrupt)
CellEnd = tuple[int, CellResult | BaseException]


def run_stack(
    configs: Sequence[Mapping[str, Any]],
    device: torch.device,
    on_progress: OnProgress = lambda done, total: None,
    checkpointers: Sequence[Checkpointer] | None = None,
) -> Iterator[CellEnd]:
    """Measure the cells one by one and train them as one stack.

    A cell's result does not depend on the other cells of the stack. If training raises (for
    example because the device is out of memory), the stack is split in halves until the failing
    cell is alone. Cells resume from their checkpoints. Cells that resume at different steps train
    in separate stacks, one per step.

    Parameters
    ----------
    configs
        Coerced configs for which `experiments.training.stackable.why_serial` returns None. They may
        differ only in init, scaling, seeds and the optimizer's numbers.
    device, on_progress
        As for `run_cell`.
    checkpointers
        One per cell, as for `run_cell`, all with the same `every` and `stop`.

    Yields
    ------
    tuple
        Index in `configs` and the cell's result or exception, when the cell ends.

    Raises
    ------
    Stopped
        The checkpointers' `stop` returned True. All cells not yet yielded have saved checkpoints.
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
        group = [index for index, run in runs.items() if _first_step(run) == step]
        for part in equal_parts(len(group), _stack_limit([runs[i] for i in group], device)):
            yield from _train(
                {group[slot]: runs[group[slot]] for slot in part}, device, on_progress
            )


def _stack_limit(runs: Sequence[CellRun], device: torch.device) -> int:
    """Return the number of cells that fit into one stack."""
    if device.type != "cuda" or len(runs) <= MEASURED_NETWORKS:
        return len(runs)  # on a CPU the plan has sized the packs
    try:
        return networks_that_fit([run.train_spec() for run in runs], CudaMemory(device))
    except FAILURES:
        return len(runs)  # training will raise it again, and blame the cell


def _first_step(run: CellRun) -> int:
    return 0 if run.train_state is None else run.train_state.step


def _train(
    runs: Mapping[int, CellRun], device: torch.device, on_progress: OnProgress
) -> Iterator[CellEnd]:
    """Train the runs as one stack; if that fails, in halves."""
    indices = list(runs)
    unfinished = set(indices)
    training = train_stacked([run.train_spec() for run in runs.values()], on_progress)
    while unfinished:
        try:
            slot, trained = next(training)
        except FAILURES as error:
            if len(unfinished) == 1:
                yield unfinished.pop(), error
                return
            break
        index = indices[slot]
        unfinished.remove(index)
        yield index, _finish(runs[index], trained)
    rest = sorted(unfinished)
    for half in (rest[: len(rest) // 2], rest[len(rest) // 2 :]):
        if half:  # restarts from the checkpoints, and repeats the probes since then
            configs = [runs[index].config for index in half]
            checkpointers = [
                checkpointer
                for index in half
                if (checkpointer := runs[index].checkpointer) is not None
            ]
            for slot, end in run_stack(configs, device, on_progress, checkpointers or None):
                yield half[slot], end


def _finish(run: CellRun, trained: TrainResult) -> CellResult | BaseException:
    try:
        return run.finish(trained)
    except FAILURES as error:
        return error
