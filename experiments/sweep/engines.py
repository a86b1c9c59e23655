"""Choice of the engine (serial or stacked) of each group of similar cells: by rule or timing."""

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

TIMED_CELLS = 16  # maximum size of a timed stack
MAX_TIME_RATIO = 0.9  # stack if stacked / serial time is below this; below 1, as timings are noisy
TIMED_STEPS = 5  # of each engine, after a warm-up step
COMPARED_STEPS = 2  # the second step also depends on the update of the first


@dataclass(frozen=True)
class EngineDecisions:
    """The engine of each group of similar cells (cells with the same `pack_key`).

    Attributes
    ----------
    chosen
        Engine of each group, by `pack_key`.
    untimed
        Groups that `engine=auto` still has to time; their engine in `chosen` is serial.
    reasons
        Reason why a group can't be stacked, by group.
    trial_groups
        Groups that were timed, including those where timing failed.
    timings
        Serial and stacked seconds per cell and step, by group.
    """

    chosen: dict[str, EngineName]
    untimed: tuple[str, ...] = ()
    reasons: dict[str, str] = field(default_factory=dict)
    trial_groups: tuple[str, ...] = ()
    timings: dict[str, tuple[float, float]] = field(default_factory=dict)


def choose_by_rule(
    groups: Mapping[str, Sequence[PackedCell]],
    requested: EngineChoice,
    recorded: Mapping[str, EngineName],
) -> EngineDecisions:
    """Choose the engines that need no timing; list the other groups in `untimed`.

    Parameters
    ----------
    groups
        Cells by `pack_key`.
    requested
        Value of `engine=`.
    recorded
        Engines that timing chose in an earlier launch. `auto` keeps to them, so that a sweep
        repeats bit-identically.
    """
    if requested == "serial":
        return EngineDecisions(dict.fromkeys(groups, "serial"))
    chosen: dict[str, EngineName] = {}
    untimed, reasons = [], {}
    for key, cells in groups.items():
        reason = why_serial(build_cell(cells[0].config))
        if reason is not None:
            chosen[key], reasons[key] = "serial", reason
        elif requested == "stacked":
            chosen[key] = "stacked"
        elif key in recorded:
            chosen[key] = recorded[key]
        else:
            chosen[key] = "serial"
            if len(cells) > 1:
                untimed.append(key)
    return EngineDecisions(chosen, tuple(untimed), reasons)


def time_engines(
    decisions: EngineDecisions,
    groups: Mapping[str, Sequence[PackedCell]],
    runner: Runner,
    device: str,
    heartbeat: Heartbeat = lambda: None,
) -> EngineDecisions:
    """Time both engines on the untimed groups, and choose the faster one.

    Parameters
    ----------
    decisions
        Result of `choose_by_rule`.
    groups
        Cells by `pack_key`.
    runner, device
        Runner and device on which the steps are timed.
    heartbeat
        Called before each group.
    """
    chosen, timings = dict(decisions.chosen), {}
    reasons = dict(decisions.reasons)
    for key in decisions.untimed:
        heartbeat()
        configs = [cell.config for cell in groups[key][:TIMED_CELLS]]
        try:
            trial: EngineTrial = runner.call(run_trial, configs, device)
        except FaninError as error:
            reasons[key] = f"timing failed: {error}"
            continue
        if not trial.batch_invariant:
            reasons[key] = (
                "on this machine, the last bits of a cell's results depend on the other cells of "
                "its stack"
            )
            continue
        timings[key] = trial.serial, trial.stacked
        is_faster = trial.stacked < MAX_TIME_RATIO * trial.serial
        chosen[key] = "stacked" if is_faster else "serial"
    return EngineDecisions(chosen, (), reasons, decisions.untimed, timings)


@dataclass(frozen=True)
class EngineTrial:
    """Median seconds per cell and step under each engine.

    `batch_invariant` is True if each cell's parameters were bit-identical in a stack with another
    order and number of cells.
    """

    serial: float
    stacked: float
    batch_invariant: bool


def run_trial(configs: Sequence[Mapping[str, Any]], device: str) -> EngineTrial:
    """Take a few steps of the first cell alone and of all cells as a stack, alternately.

    Parameters
    ----------
    configs
        Similar cells, at least two.
    device
        Device to run on.

    Raises
    ------
    FaninError
        Fewer than two cells can be built, or one can't be trained.
    """
    try:
        specs = _start_cells(configs, device)
        serial, stacked = _median_seconds(specs, device)
        return EngineTrial(serial, stacked, _is_batch_invariant(specs))
    except FAILURES as error:
        raise FaninError(f"{type(error).__name__}: {error}") from error


def _start_cells(configs: Sequence[Mapping[str, Any]], device: str) -> list[TrainSpec]:
    """Return the specs of the cells that can be started; the others report their errors later."""
    specs: list[TrainSpec] = []
    for n_remaining, config in zip(reversed(range(len(configs))), configs, strict=True):
        unprobed = {**config, "probe": {**config["probe"], "draws": 0}}
        try:
            run = CellRun.start(unprobed, torch.device(device))
            run.measure_draws()
            specs.append(run.train_spec())
        except FAILURES:
            if len(specs) + n_remaining < 2:
                raise
    return specs


def _median_seconds(specs: Sequence[TrainSpec], device: str) -> tuple[float, float]:
    engines: tuple[Engine, Engine] = SerialEngine(specs[:1]), StackedEngine(specs)
    seconds: tuple[list[float], list[float]] = ([], [])
    for step in range(1 + TIMED_STEPS):
        for engine, times in zip(engines, seconds, strict=True):
            times.append(_time_step(engine, step, device))
    serial, stacked = (statistics.median(times[1:]) for times in seconds)
    return serial, stacked / len(specs)


def _time_step(engine: Engine, step: int, device: str) -> float:
    _synchronize(device)
    started = time.perf_counter()
    engine.step(step)
    _synchronize(device)
    return time.perf_counter() - started


def _synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def _is_batch_invariant(specs: Sequence[TrainSpec]) -> bool:
    """Return True if a reversed and a smaller stack give bit-identical parameters."""
    expected = _params_after_steps(specs)
    reverse = _params_after_steps(specs[::-1])[::-1]
    fewer = _params_after_steps(specs[: len(specs) // 2])
    pairs = [*zip(expected, reverse, strict=True), *zip(expected, fewer, strict=False)]
    return all(torch.equal(a[name], b[name]) for a, b in pairs for name in a)


def _params_after_steps(specs: Sequence[TrainSpec]) -> list[Params]:
    """Return each cell's parameters after a few steps of a stack."""
    engine = StackedEngine(specs)
    for step in range(COMPARED_STEPS):
        engine.step(step)
    return [engine.state(index)["params"] for index in range(len(specs))]
