"""Which engine each group of similar cells runs under, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from experiments.schema import build_cell
from experiments.sweep.runners.protocol import Runner, Tick
from experiments.sweep.trial import Trial, try_engines
from experiments.sweep.types import Engine, Task
from experiments.training.engines import why_serial
from fanin.errors import FaninError

Asked = Literal["serial", "stacked", "auto"]
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
    tried
        Groups whose engine was decided by a trial, whatever came of it.
    timed
        Groups whose engine was found by timing, with (serial, stacked) seconds a cell and step.
    """

    chosen: dict[str, Engine]
    undecided: tuple[str, ...] = ()
    reasons: dict[str, str] = field(default_factory=dict)
    tried: tuple[str, ...] = ()
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
            found: Trial = runner.call(try_engines, configs, device)
        except FaninError as error:
            reasons[key] = f"timing it failed: {error}"
            continue
        if not found.independent:
            reasons[key] = "on this machine its bits depend on the cells beside it"
            continue
        timed[key] = found.serial, found.stacked
        chosen[key] = "stacked" if found.stacked < CLEARLY * found.serial else "serial"
    return Engines(chosen, (), reasons, engines.undecided, timed)
