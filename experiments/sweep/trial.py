"""A few steps of both engines: which is faster here, and whether a stack keeps its cells apart."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from experiments.cell import begin
from experiments.stack import FAILURES
from experiments.training.feed import Feed
from experiments.training.lanes import Lanes, OneLane, StackedLanes
from experiments.training.loop import Member
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
        members = _begun(configs, device)
        serial, stacked = _seconds_each(members, device)
        return Trial(serial, stacked, _independent(members))
    except FAILURES as error:
        raise FaninError(f"{type(error).__name__}: {error}") from error


def _begun(configs: Sequence[Mapping[str, Any]], device: str) -> list[Member]:
    """The cells that can be begun; what is wrong with another, its own run says."""
    members: list[Member] = []
    for left, config in zip(reversed(range(len(configs))), configs, strict=True):
        try:
            members.append(begin(_unprobed(config), torch.device(device)).member())
        except FAILURES:
            if len(members) + left < 2:
                raise
    return members


def _unprobed(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**config, "probe": {**config["probe"], "draws": 0}}


def _stacked(members: Sequence[Member]) -> StackedLanes:
    feeds = [Feed(m.cell, m.task, m.data, m.scaling) for m in members]
    return StackedLanes([member.task for member in members], feeds)


def _seconds_each(members: Sequence[Member], device: str) -> tuple[float, float]:
    one = members[0]
    alone = OneLane(one.task, Feed(one.cell, one.task, one.data, one.scaling))
    engines: tuple[Lanes, Lanes] = alone, _stacked(members)
    taken: tuple[list[float], list[float]] = ([], [])
    for step in range(1 + TIMED_STEPS):
        for lanes, times in zip(engines, taken, strict=True):
            times.append(_seconds(lanes, step, device))
    serial, stacked = (statistics.median(times[1:]) for times in taken)
    return serial, stacked / len(members)


def _seconds(lanes: Lanes, step: int, device: str) -> float:
    _wait_for(device)
    began = time.perf_counter()
    lanes.step(step)
    _wait_for(device)
    return time.perf_counter() - began


def _wait_for(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def _independent(members: Sequence[Member]) -> bool:
    """Whether the cells' parameters are the same to the bit in reverse order, and with fewer."""
    expected = _after(members)
    backwards = _after(members[::-1])[::-1]
    fewer = _after(members[: len(members) // 2])
    pairs = [*zip(expected, backwards, strict=True), *zip(expected, fewer, strict=False)]
    return all(torch.equal(mine[name], other[name]) for mine, other in pairs for name in mine)


def _after(members: Sequence[Member]) -> list[Params]:
    """Each cell's parameters after a few steps of a stack."""
    lanes = _stacked(members)
    for step in range(COMPARED_STEPS):
        lanes.step(step)
    return [lanes.state(place)["params"] for place in range(len(members))]
