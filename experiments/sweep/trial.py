"""A few steps of both engines: which is faster here, and whether a stack keeps its cells apart."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from experiments.cell import CellRun
from experiments.stack import FAILURES
from experiments.training.engines import Engine, SerialEngine, StackedEngine, TrainSpec
from experiments.training.step import Params
from fanin.errors import FaninError

TIMED_STEPS = 5  # of each engine, after one that warms up
COMPARED_STEPS = 2  # the first shows what gradients depend on, the second what updates do


@dataclass(frozen=True)
class Trial:
    """Median seconds a cell and step under each engine, and whether the stack passed.

    `independent`: in another order and number, the stack gave every cell the same bits.
    """

    serial: float
    stacked: float
    independent: bool


def try_engines(configs: Sequence[Mapping[str, Any]], device: str) -> Trial:
    """Take a few steps of the first cell alone and of all as a stack, in turns.

    Parameters
    ----------
    configs
        Similar cells, two at least.
    device
        Where to.

    Raises
    ------
    FaninError
        Fewer than two cells can be made, or one can't be trained.
    """
    try:
        specs = _started(configs, device)
        serial, stacked = _seconds_each(specs, device)
        return Trial(serial, stacked, _independent(specs))
    except FAILURES as error:
        raise FaninError(f"{type(error).__name__}: {error}") from error


def _started(configs: Sequence[Mapping[str, Any]], device: str) -> list[TrainSpec]:
    """Return the cells that can be started; what is wrong with another, its own run says."""
    specs: list[TrainSpec] = []
    for left, config in zip(reversed(range(len(configs))), configs, strict=True):
        unprobed = {**config, "probe": {**config["probe"], "draws": 0}}
        try:
            run = CellRun.start(unprobed, torch.device(device))
            run.measure_draws()
            specs.append(run.train_spec())
        except FAILURES:
            if len(specs) + left < 2:
                raise
    return specs


def _seconds_each(specs: Sequence[TrainSpec], device: str) -> tuple[float, float]:
    engines: tuple[Engine, Engine] = SerialEngine(specs[:1]), StackedEngine(specs)
    taken: tuple[list[float], list[float]] = ([], [])
    for step in range(1 + TIMED_STEPS):
        for engine, times in zip(engines, taken, strict=True):
            times.append(_seconds(engine, step, device))
    serial, stacked = (statistics.median(times[1:]) for times in taken)
    return serial, stacked / len(specs)


def _seconds(engine: Engine, step: int, device: str) -> float:
    _wait_for(device)
    began = time.perf_counter()
    engine.step(step)
    _wait_for(device)
    return time.perf_counter() - began


def _wait_for(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def _independent(specs: Sequence[TrainSpec]) -> bool:
    """Return True if the parameters are the same to the bit in reverse order, and with fewer."""
    expected = _after(specs)
    backwards = _after(specs[::-1])[::-1]
    fewer = _after(specs[: len(specs) // 2])
    pairs = [*zip(expected, backwards, strict=True), *zip(expected, fewer, strict=False)]
    return all(torch.equal(mine[name], other[name]) for mine, other in pairs for name in mine)


def _after(specs: Sequence[TrainSpec]) -> list[Params]:
    """Return each cell's parameters after a few steps of a stack."""
    engine = StackedEngine(specs)
    for step in range(COMPARED_STEPS):
        engine.step(step)
    return [engine.state(place)["params"] for place in range(len(specs))]
