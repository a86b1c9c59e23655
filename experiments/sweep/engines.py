"""Engine (serial or stacked) of each group of similar cells, chosen by rule or by timing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from experiments.cell import CellRun
from experiments.schema import build_cell
from experiments.stack import FAILURES
from experiments.sweep.types import EngineChoice, EngineName, Heartbeat, PackedCell, Runner
from experiments.training.engines import Engine, SerialEngine, StackedEngine, TrainSpec, why_serial
from experiments.training.step import Params
from fanin.errors import FaninError

TIMED_CELLS = 16  # most cells of the stack that is timings
CLEARLY = 0.9  # a stack must take less than this share of the serial time, for timings are noisy
TIMED_STEPS = 5  # of each engine, after one that warms up
COMPARED_STEPS = 2  # the first shows what gradients depend on, the second what updates do


@dataclass(frozen=True)
class EngineDecisions:
    """The engine of each group.

    Attributes
    ----------
    chosen
        By what the group has in common (`pack_key`).
    untimed
        Groups that `engine=auto` has yet to time; `chosen` has them as serial.
    reasons
        Why a group can't be stacked, where that was asked for.
    trial_groups
        Groups whose engine was decided by a trial, whatever came of it.
    timings
        Groups whose engine was found by timing, with (serial, stacked) seconds a cell and step.
    """

    chosen: dict[str, EngineName]
    untimed: tuple[str, ...] = ()
    reasons: dict[str, str] = field(default_factory=dict)
    trial_groups: tuple[str, ...] = ()
    timings: dict[str, tuple[float, float]] = field(default_factory=dict)


def choose_by_rule(
    groups: Mapping[str, Sequence[PackedCell]],
    asked: EngineChoice,
    recorded: Mapping[str, EngineName],
) -> EngineDecisions:
    """Choose engines as far as that takes no timing.

    Parameters
    ----------
    groups
        Cells by what they have in common (`pack_key`).
    asked
        What `engine=` says.
    recorded
        What an earlier launch's timing chose; `auto` keeps to it, so that a sweep repeats
        bit-identically.
    """
    if asked == "serial":
        return EngineDecisions(dict.fromkeys(groups, "serial"))
    chosen: dict[str, EngineName] = {}
    untimed, reasons = [], {}
    for key, tasks in groups.items():
        reason = why_serial(build_cell(tasks[0].config))
        if reason is not None:
            chosen[key], reasons[key] = "serial", reason
        elif asked == "stacked":
            chosen[key] = "stacked"
        elif key in recorded:
            chosen[key] = recorded[key]
        else:
            chosen[key] = "serial"
            if len(tasks) > 1:
                untimed.append(key)
    return EngineDecisions(chosen, tuple(untimed), reasons)


def time_engines(
    engines: EngineDecisions,
    groups: Mapping[str, Sequence[PackedCell]],
    runner: Runner,
    device: str,
    heartbeat: Heartbeat = lambda: None,
) -> EngineDecisions:
    """Time both engines on the groups that are untimed, and take the faster one.

    Parameters
    ----------
    engines, groups
        As decided, and the tasks of each group.
    runner, device
        Where the steps are taken.
    heartbeat
        Called before each group.
    """
    chosen, timings = dict(engines.chosen), {}
    reasons = dict(engines.reasons)
    for key in engines.untimed:
        heartbeat()
        configs = [task.config for task in groups[key][:TIMED_CELLS]]
        try:
            found: Trial = runner.call(time_trial, configs, device)
        except FaninError as error:
            reasons[key] = f"timing it failed: {error}"
            continue
        if not found.independent:
            reasons[key] = "on this machine its bits depend on the cells beside it"
            continue
        timings[key] = found.serial, found.stacked
        chosen[key] = "stacked" if found.stacked < CLEARLY * found.serial else "serial"
    return EngineDecisions(chosen, (), reasons, engines.untimed, timings)


@dataclass(frozen=True)
class Trial:
    """Median seconds a cell and step under each engine, and whether the stack passed.

    `independent`: in another order and number, the stack gave every cell the same bits.
    """

    serial: float
    stacked: float
    independent: bool


def time_trial(configs: Sequence[Mapping[str, Any]], device: str) -> Trial:
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
