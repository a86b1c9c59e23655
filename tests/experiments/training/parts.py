"""Helpers that stop cells and resume them from their checkpoints, several times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from experiments.cell import run_cell
from experiments.result import CellResult
from experiments.stack import run_stack
from experiments.training.checkpoint import Checkpointer, Stopped
from experiments.training.engines import SerialEngine, StackedEngine

CPU = torch.device("cpu")
SMALL = (
    *("data.side=7", "data.n_train=96", "data.n_test=40", "train.batch_size=24"),
    *("train.steps=24", "probe.draws=2", "probe.size=8"),
)


def small_overrides(*case: str) -> list[str]:
    """Return the overrides of a small cell, with those of `case`."""
    keys = {text.partition("=")[0] for text in case}
    return [*(text for text in SMALL if text.partition("=")[0] not in keys), *case]


def stop_after(polls: int) -> Callable[[], bool]:
    """Return a `stop` that returns True from this poll on (one poll per draw and step)."""
    remaining = polls

    def stop() -> bool:
        nonlocal remaining
        remaining -= 1
        return remaining <= 0

    return stop


def stopping_checkpointer(path: Path, polls: int) -> Checkpointer:
    """Return a checkpointer that stops its cell after this number of draws and steps."""
    return Checkpointer(path, stop=stop_after(polls), poll_every=0)


def run_in_parts(config: dict[str, Any], path: Path, stops: Sequence[int]) -> CellResult:
    """Run a cell, stop it after each number of draws and steps, resume it, and finish it."""
    for polls in stops:
        with pytest.raises(Stopped):
            run_and_check(config, stopping_checkpointer(path, polls))
        assert path.exists()
    return run_and_check(config, Checkpointer(path))


def run_and_check(config: dict[str, Any], checkpointer: Checkpointer) -> CellResult:
    """Run a cell and check that its checkpoint has been read and written without errors."""
    try:
        return run_cell(config, CPU, checkpointer=checkpointer)
    finally:
        assert checkpointer.load_error is checkpointer.save_error is None


def run_stack_in_parts(
    configs: Sequence[dict[str, Any]], folder: Path, stops: Sequence[int]
) -> dict[int, CellResult]:
    """Run a stack in parts; each part runs the cells that are not finished."""
    results: dict[int, Any] = {}
    for polls in [*stops, 10**9]:
        rest = [index for index in range(len(configs)) if index not in results]
        stop = stop_after(polls)
        checkpointers = [Checkpointer(folder / str(i), stop=stop, poll_every=0) for i in rest]
        try:
            stack = run_stack([configs[i] for i in rest], CPU, checkpointers=checkpointers)
            for slot, result in stack:
                results[rest[slot]] = result
                checkpointers[slot].delete()
        except Stopped:
            assert {checkpointer.load_error for checkpointer in checkpointers} == {None}
    assert all(isinstance(result, CellResult) for result in results.values())
    return results


def bits(result: CellResult) -> str:
    """Return a result without its time as text, in which equal NaNs compare equal."""
    row = {name: value for name, value in result.row.items() if name != "seconds"}
    return repr((row, result.tables))


@contextmanager
def recorded_steps() -> Iterator[list[int]]:
    """Record the numbers of all training steps."""
    numbers: list[int] = []

    def recording(step: Callable[[Any, int], Tensor]) -> Callable[[Any, int], Tensor]:
        def recording_step(engine: Any, number: int) -> Tensor:
            numbers.append(number)
            return step(engine, number)

        return recording_step

    with pytest.MonkeyPatch.context() as patch:
        for engine in (SerialEngine, StackedEngine):
            patch.setattr(engine, "step", recording(engine.step))
        yield numbers


class Stateful(nn.Module):
    """An activation with a buffer that changes during training."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.ndim == 2:
            self.total.add_(x.detach().mean())
        return torch.tanh(x + self.total)


class CatchingExceptions(nn.Module):
    """An activation that catches all Exceptions; its fifth training pass raises Stopped."""

    passes = 0

    def forward(self, x: Tensor) -> Tensor:
        try:
            CatchingExceptions.passes += self.training and x.ndim == 2
            if CatchingExceptions.passes == 5:
                raise Stopped
        except Exception:
            return x
        return torch.tanh(x)
