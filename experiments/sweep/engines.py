"""Which engine each group of similar cells runs under, and why."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from experiments.cell import begin
from experiments.config.schema import build_cell
from experiments.errors import FaninError
from experiments.stack import FAILURES
from experiments.sweep.pack import Engine, Task
from experiments.sweep.runner.protocol import Runner, Tick
from experiments.training.feed import Feed
from experiments.training.lanes import Lanes, OneLane, StackedLanes
from experiments.training.stackable import why_serial

Asked = Literal["serial", "stacked", "auto"]
TIMED_STEPS = 5  # of each engine, after one that warms up
TIMED_CELLS = 16  # most cells of the stack that is timed
CLEARLY = 0.9  # a stack must take less than this share of the serial time, for timings are noisy


@dataclass(frozen=True)
class Engines:
    """The engine of each group.

    Attributes
    ----------
    chosen
        By what the group has in common (`pack.similar`).
    undecided
        Groups that `engine=auto` has yet to time; `chosen` has them as serial.
    reasons
        Why a group can't be stacked, where that was asked for.
    timed
        Groups whose engine was found by timing, with (serial, stacked) seconds a cell and step.
    """

    chosen: dict[str, Engine]
    undecided: tuple[str, ...] = ()
    reasons: dict[str, str] = field(default_factory=dict)
    timed: dict[str, tuple[float, float]] = field(default_factory=dict)


def decide(
    groups: Mapping[str, Sequence[Task]], asked: Asked, recorded: Mapping[str, Engine]
) -> Engines:
    """Choose engines as far as that takes no timing.

    Parameters
    ----------
    groups
        Tasks by what they have in common.
    asked
        What `engine=` says.
    recorded
        What an earlier launch's timing chose; `auto` keeps to it, so that a sweep repeats
        bit-identically.
    """
    if asked == "serial":
        return Engines(dict.fromkeys(groups, "serial"))
    chosen: dict[str, Engine] = {}
    undecided, reasons = [], {}
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
                undecided.append(key)
    return Engines(chosen, tuple(undecided), reasons)


def choose(
    engines: Engines,
    groups: Mapping[str, Sequence[Task]],
    runner: Runner,
    device: str,
    beat: Tick = lambda: None,
) -> Engines:
    """Time both engines on the groups that are undecided, and take the faster one.

    Parameters
    ----------
    engines, groups
        As decided, and the tasks of each group.
    runner, device
        Where the steps are taken.
    beat
        Called before each group.
    """
    chosen, timed = dict(engines.chosen), {}
    reasons = dict(engines.reasons)
    for key in engines.undecided:
        beat()
        configs = [task.config for task in groups[key][:TIMED_CELLS]]
        try:
            serial, stacked = runner.call(time_engines, configs, device)
        except FaninError as error:
            reasons[key] = f"timing it failed: {error}"
            continue
        timed[key] = serial, stacked
        chosen[key] = "stacked" if stacked < CLEARLY * serial else "serial"
    return Engines(chosen, (), reasons, timed)


def time_engines(configs: Sequence[Mapping[str, Any]], device: str) -> tuple[float, float]:
    """Take a few steps of the first cell alone and of all as a stack, in turns.

    Returns
    -------
    tuple
        Median seconds a cell and step, serial and stacked.

    Raises
    ------
    FaninError
        A cell can't be made, or not be trained.
    """
    try:
        return _timed(configs, device)
    except FAILURES as error:
        raise FaninError(f"{type(error).__name__}: {error}") from error


def _timed(configs: Sequence[Mapping[str, Any]], device: str) -> tuple[float, float]:
    members = [begin(_unprobed(config), torch.device(device)).member() for config in configs]
    feeds = [Feed(m.cell, m.task, m.data, m.scaling) for m in members]
    tasks = [member.task for member in members]
    engines: tuple[Lanes, Lanes] = OneLane(tasks[0], feeds[0]), StackedLanes(tasks, feeds)
    taken: tuple[list[float], list[float]] = ([], [])
    for step in range(1 + TIMED_STEPS):
        for lanes, times in zip(engines, taken, strict=True):
            times.append(_seconds(lanes, step, device))
    serial, stacked = (statistics.median(times[1:]) for times in taken)
    return serial, stacked / len(configs)


def _unprobed(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**config, "probe": {**config["probe"], "draws": 0}}


def _seconds(lanes: Lanes, step: int, device: str) -> float:
    _wait_for(device)
    began = time.perf_counter()
    lanes.step(step)
    _wait_for(device)
    return time.perf_counter() - began


def _wait_for(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)
