"""Cells that are run in parts: stopped again and again, each time by another keeper of one file."""

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
from experiments.training.checkpoint import Keeper, Stopped
from experiments.training.lanes import OneLane, StackedLanes

CPU = torch.device("cpu")
SMALL = (
    *("data.side=7", "data.n_train=96", "data.n_test=40", "train.batch_size=24"),
    *("train.steps=24", "probe.draws=2", "probe.size=8"),
)


def words(*case: str) -> list[str]:
    """Overrides of a small cell, what `case` says put in place of the usual."""
    given = {text.partition("=")[0] for text in case}
    return [*(text for text in SMALL if text.partition("=")[0] not in given), *case]


def after(checks: int) -> Callable[[], bool]:
    """Stop once so many draws and steps are done."""
    left = checks

    def stop() -> bool:
        nonlocal left
        left -= 1
        return left <= 0

    return stop


def in_parts(config: dict[str, Any], path: Path, stops: Sequence[int]) -> CellResult:
    """One cell, stopped after so many draws and steps of each part, and then run to its end."""
    for checks in stops:
        keeper = Keeper(path, stop=after(checks), ask_every=0)
        try:
            return _used(run_cell(config, CPU, keeper=keeper), keeper)
        except Stopped:
            assert keeper.ignored is keeper.failed is None
            assert path.exists()
    keeper = Keeper(path)
    return _used(run_cell(config, CPU, keeper=keeper), keeper)


def stack_in_parts(
    configs: Sequence[dict[str, Any]], folder: Path, stops: Sequence[int]
) -> dict[int, CellResult]:
    """As `in_parts`, of those cells of a stack that have not ended in a part before."""
    ended: dict[int, Any] = {}
    for checks in [*stops, 10**9]:
        left = [index for index in range(len(configs)) if index not in ended]
        stop = after(checks)
        keepers = [Keeper(folder / str(index), stop=stop, ask_every=0) for index in left]
        try:
            for place, result in run_stack([configs[i] for i in left], CPU, keepers=keepers):
                ended[left[place]] = result
                keepers[place].done()
        except Stopped:
            assert {keeper.ignored for keeper in keepers} == {None}
    assert all(isinstance(result, CellResult) for result in ended.values())
    return ended


def _used(result: CellResult, keeper: Keeper) -> CellResult:
    assert keeper.ignored is keeper.failed is None
    return result


def bits(result: CellResult) -> str:
    """All of a result but the time; as text, since NaN is not equal to itself."""
    row = {name: value for name, value in result.row.items() if name != "seconds"}
    return repr((row, result.tables))


@contextmanager
def steps_counted() -> Iterator[list[int]]:
    """The numbers of all steps that are taken meanwhile."""
    taken: list[int] = []

    def counting(step: Callable[[Any, int], Tensor]) -> Callable[[Any, int], Tensor]:
        def counted(lanes: Any, number: int) -> Tensor:
            taken.append(number)
            return step(lanes, number)

        return counted

    with pytest.MonkeyPatch.context() as patch:
        for kind in (OneLane, StackedLanes):
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
