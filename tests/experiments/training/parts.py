"""Cells that are run in parts: stopped and resumed again and again, from one checkpoint."""

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


def words(*case: str) -> list[str]:
    """Return overrides of a small cell, replaced where `case` names them."""
    given = {text.partition("=")[0] for text in case}
    return [*(text for text in SMALL if text.partition("=")[0] not in given), *case]


def after(checks: int) -> Callable[[], bool]:
    """Return a `stop` that is True once so many draws and steps are done."""
    left = checks

    def stop() -> bool:
        nonlocal left
        left -= 1
        return left <= 0

    return stop


def stopping(path: Path, checks: int) -> Checkpointer:
    """Return a checkpointer that stops its cell after so many draws and steps."""
    return Checkpointer(path, stop=after(checks), poll_every=0)


def in_parts(config: dict[str, Any], path: Path, stops: Sequence[int]) -> CellResult:
    """Run one cell, stopped after so many draws and steps of each part, and then to its end."""
    for checks in stops:
        with pytest.raises(Stopped):
            run_and_check(config, stopping(path, checks))
        assert path.exists()
    return run_and_check(config, Checkpointer(path))


def run_and_check(config: dict[str, Any], checkpointer: Checkpointer) -> CellResult:
    """Run a cell; check that its checkpoints could be read and written."""
    try:
        return run_cell(config, CPU, checkpointer=checkpointer)
    finally:
        assert checkpointer.load_error is checkpointer.save_error is None


def stack_in_parts(
    configs: Sequence[dict[str, Any]], folder: Path, stops: Sequence[int]
) -> dict[int, CellResult]:
    """Run a stack in parts; each part takes the cells that have not ended before."""
    ended: dict[int, Any] = {}
    for checks in [*stops, 10**9]:
        left = [index for index in range(len(configs)) if index not in ended]
        stop = after(checks)
        used = [Checkpointer(folder / str(index), stop=stop, poll_every=0) for index in left]
        try:
            for place, result in run_stack([configs[i] for i in left], CPU, checkpointers=used):
                ended[left[place]] = result
                used[place].delete()
        except Stopped:
            assert {checkpointer.load_error for checkpointer in used} == {None}
    assert all(isinstance(result, CellResult) for result in ended.values())
    return ended


def bits(result: CellResult) -> str:
    """Return all of a result but the time; as text, since NaN is not equal to itself."""
    row = {name: value for name, value in result.row.items() if name != "seconds"}
    return repr((row, result.tables))


@contextmanager
def steps_counted() -> Iterator[list[int]]:
    """Record the numbers of all steps that are taken meanwhile."""
    taken: list[int] = []

    def counting(step: Callable[[Any, int], Tensor]) -> Callable[[Any, int], Tensor]:
        def counted(engine: Any, number: int) -> Tensor:
            taken.append(number)
            return step(engine, number)

        return counted

    with pytest.MonkeyPatch.context() as patch:
        for kind in (SerialEngine, StackedEngine):
            patch.setattr(kind, "step", counting(kind.step))
        yield taken


class Remembering(nn.Module):
    """An activation with a memory, of the kind that batch normalization has."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.ndim == 2:
            self.seen.add_(x.detach().mean())
        return torch.tanh(x + self.seen)


class Swallowing(nn.Module):
    """An activation that lets no exception pass, and is stopped in its fifth pass of training."""

    passes = 0

    def forward(self, x: Tensor) -> Tensor:
        try:
            Swallowing.passes += self.training and x.ndim == 2
            if Swallowing.passes == 5:
                raise Stopped
        except Exception:
            return x
        return torch.tanh(x)
