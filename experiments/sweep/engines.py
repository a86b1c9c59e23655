"""Choice of the engine (serial or stacked) of each group of similar cells: by rule or timing.

`engine=auto` measures instead of predicting, because the faster engine depends on the machine's
kernels: a stack of two_layer with 4 channels may be faster on one CPU and slower on the next.
`run_trial` takes steps of both engines in turn, each several times in a row for at least
`MIN_SECONDS`. It compares the time per cell of the whole training: the median step times the number
of steps, and the start and end of a training, measured with one of a single step. On a CPU it
measures the CPU time of its thread, which other programs disturb less than the wall time. The time
of a stack of more than `TIMED_CELLS` cells is extrapolated from two smaller stacks, as a constant
and a time per cell. The time that both engines take alike, for drawing weights, probes and the
evaluation, is not part of it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from experiments.cell import CellRun
from experiments.schema import build_cell
from experiments.stack import FAILURES
from experiments.sweep.types import EngineChoice, EngineName, Heartbeat, PackedCell, Runner
from experiments.training.engines import Engine, SerialEngine, StackedEngine, TrainSpec
from experiments.training.loop import train, train_stacked
from experiments.training.stack_size import max_stacked_cells, stack_size
from experiments.training.stackable import why_serial
from experiments.training.step import Params
from fanin.errors import FaninError

TIMED_CELLS = 16  # maximum size of a timed stack
FEW_CELLS = 4  # size of the second timed stack, for an extrapolation
WARM_UP_STEPS = 5  # the fourth step of a stack captures a CUDA graph
TIMED_ROUNDS = 7  # of each engine
MIN_SECONDS = 0.005  # of the steps of an engine in one round
MAX_STEPS = 20  # in one round
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
        Called regularly.
    """
    chosen, timings = dict(decisions.chosen), {}
    reasons = dict(decisions.reasons)
    for key in decisions.untimed:
        heartbeat()
        n_cells = stack_size(
            len(groups[key]), runner.n_workers, runner.pack_cells, max_stacked_cells(device)
        )
        configs = [cell.config for cell in groups[key][: min(n_cells, TIMED_CELLS)]]
        try:
            trial: EngineTrial = runner.call(
                run_trial, configs, device, n_cells, heartbeat=heartbeat
            )
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
        chosen[key] = trial.faster
    return EngineDecisions(chosen, (), reasons, decisions.untimed, timings)


@dataclass(frozen=True)
class EngineTrial:
    """Seconds per cell and step under each engine, including the start and end of training.

    `batch_invariant` is True if each cell's parameters were bit-identical in a stack with another
    order and number of cells.
    """

    serial: float
    stacked: float
    batch_invariant: bool

    @property
    def faster(self) -> EngineName:
        """The engine that took less time."""
        return "stacked" if self.stacked < self.serial else "serial"


def run_trial(
    configs: Sequence[Mapping[str, Any]], device: str, n_cells: int | None = None
) -> EngineTrial:
    """Take a few steps of the first cell alone and of all cells as a stack, alternately.

    Parameters
    ----------
    configs
        Similar cells, at least two.
    device
        Device to run on.
    n_cells
        Size of the stacks to choose for. None: the number of configs.

    Raises
    ------
    FaninError
        Fewer than two cells can be built, or one can't be trained.
    """
    try:
        specs = _start_cells(configs, device)
        serial, stacked = _seconds_per_step(specs, device, n_cells or len(configs))
        return EngineTrial(serial, stacked, is_batch_invariant(specs))
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


def _seconds_per_step(specs: Sequence[TrainSpec], device: str, n_cells: int) -> tuple[float, float]:
    """Return the seconds per cell and step of the serial and the stacked engine."""
    short = [_with_one_step(spec) for spec in specs]
    sizes = [len(specs)]
    if n_cells > len(specs) > FEW_CELLS:
        sizes.append(FEW_CELLS)
    serial = _StepTimer(SerialEngine(specs[:1]), lambda: train(short[0], _ignore), device)
    stacks = [
        _StepTimer(StackedEngine(specs[:size]), partial(_train_stack, short[:size]), device)
        for size in sizes
    ]
    for _ in range(TIMED_ROUNDS):
        for timer in (serial, *stacks):
            timer.time_round()
    seconds = [timer.seconds_per_step for timer in stacks]
    if len(sizes) == 1:
        return serial.seconds_per_step, seconds[0] / sizes[0]
    per_cell = max((seconds[0] - seconds[1]) / (sizes[0] - sizes[1]), 0.0)
    stacked = seconds[0] + per_cell * (n_cells - sizes[0])
    return serial.seconds_per_step, stacked / n_cells


def _train_stack(specs: Sequence[TrainSpec]) -> None:
    for _ in train_stacked(specs, _ignore):
        pass


class _StepTimer:
    """Times the steps of an engine, in rounds of several steps."""

    def __init__(self, engine: Engine, train_one_step: Callable[[], object], device: str) -> None:
        self._engine, self._train_one_step, self._device = engine, train_one_step, device
        self._n_total = self._engine.loaders[0].n_steps
        self._n_done = 0
        self._n_steps = WARM_UP_STEPS
        self._time(self._take_steps)
        self._n_steps = 1
        step = self._time(self._take_steps)
        self._n_steps = min(MAX_STEPS, 1 + int(MIN_SECONDS / max(step, 1e-9)))
        self._steps: list[float] = []
        self._trainings: list[float] = []

    def time_round(self) -> None:
        """Take the steps of one round, and a training of one step."""
        self._steps.append(self._time(self._take_steps) / self._n_steps)
        self._trainings.append(self._time(self._train_one_step))

    @property
    def seconds_per_step(self) -> float:
        """Seconds of the whole training, divided by its number of steps."""
        step, training = (statistics.median(times) for times in (self._steps, self._trainings))
        return step + max(training - step, 0.0) / self._n_total

    def _take_steps(self) -> None:
        for _ in range(self._n_steps):
            self._engine.step(self._n_done % self._n_total)
            self._n_done += 1

    def _time(self, action: Callable[[], object]) -> float:
        clock = time.thread_time if self._device == "cpu" else time.perf_counter
        synchronize(self._device)
        started = clock()
        action()
        synchronize(self._device)
        return clock() - started


def _with_one_step(spec: TrainSpec) -> TrainSpec:
    """Return the spec of a training of one step, without callbacks."""
    cell = replace(spec.cell, train=replace(spec.cell.train, steps=1))
    return TrainSpec(cell, spec.step, spec.data, spec.scaling, on_probe=_ignore)


def _ignore(*_: object) -> None:
    """Do nothing."""


def synchronize(device: torch.device | str) -> None:
    """Wait until a GPU has finished all its work; do nothing on a CPU."""
    if str(device) != "cpu":
        torch.cuda.synchronize(device)


def is_batch_invariant(specs: Sequence[TrainSpec]) -> bool:
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
