"""The training loop: batches in, curves out; measuring is a callback."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from experiments.config.schema import Cell
from experiments.data import Dataset
from experiments.scaling import FittedScaling
from experiments.training.divergence import Divergence, diagnose, forward_fault
from experiments.training.evaluate import evaluate
from experiments.training.feed import Feed
from experiments.training.lanes import Lanes, OneLane, StackedLanes
from experiments.training.lookout import Lookout
from experiments.training.step import ALIVE, Params, State, Task

# Steps between two looks at the device; a network that has diverged is frozen and idles until then.
LOOK_EVERY = 16

OnProbe = Callable[[int, Params], None]
OnLook = Callable[[int, int], None]


@dataclass(frozen=True)
class Member:
    """One cell's part in a training: its configuration, network, data and probe.

    `on_probe` is called with (step, params) before each step that `probe.steps` names.
    """

    cell: Cell
    task: Task
    data: Dataset
    scaling: FittedScaling
    on_probe: OnProbe


@dataclass
class Trained:
    """What training left: parameters, curves, and where it diverged, if it did.

    `seconds` is this network's share of the time; networks that train together share alike.
    """

    params: Params
    divergence: Divergence | None = None
    train_loss: float = float("nan")
    seconds: float = 0.0
    curves: dict[str, list[Any]] = field(
        default_factory=lambda: {"step": [], "metric": [], "value": []}
    )

    def add(self, step: int, metric: str, value: float) -> None:
        """Add one point to the curves."""
        for name, entry in zip(self.curves, (step, metric, value), strict=True):
            self.curves[name].append(entry)


def train(member: Member, on_look: OnLook) -> Trained:
    """Train one cell's network from the weights its model holds.

    Parameters
    ----------
    member
        The cell; data and network are on one device.
    on_look
        Called with (steps done, steps in all) now and then.
    """
    ((_, trained),) = _train([member], on_look, stacked=False)
    return trained


def train_stacked(members: Sequence[Member], on_look: OnLook) -> Iterator[tuple[int, Trained]]:
    """Train cells as one program; a network that diverges leaves it and costs no more time.

    Parameters
    ----------
    members
        Cells that differ in scaling, init, seeds and their optimizer's numbers alone.
    on_look
        As for `train`.

    Yields
    ------
    tuple
        Index in `members`, and what training left, as each one ends.
    """
    return _train(members, on_look, stacked=True)


def _train(
    members: Sequence[Member], on_look: OnLook, stacked: bool
) -> Iterator[tuple[int, Trained]]:
    cell = members[0].cell
    feeds = [Feed(m.cell, m.task, m.data, m.scaling) for m in members]
    tasks = [m.task for m in members]
    lanes: Lanes = StackedLanes(tasks, feeds) if stacked else OneLane(tasks[0], feeds[0])
    total, every = feeds[0].total, cell.train.evaluate_every
    tested = set(range(every, total, every)) if every else set()
    probed = set(cell.probe.steps)
    looked = {*range(LOOK_EVERY, total, LOOK_EVERY), total, *tested, *probed}
    losses = torch.zeros(total, len(members), dtype=torch.float64, device=feeds[0].device)
    trained = [Trained({}) for _ in members]
    running = list(range(len(members)))  # indices of members, in the lanes' order
    columns = torch.tensor(running, device=losses.device)
    lookout, last = Lookout(), time.perf_counter()

    for step in range(total):
        if step in probed:
            for place, index in enumerate(running):
                members[index].on_probe(step, lanes.state(place)["params"])
        losses[step, columns] = lanes.step(step).double()
        if step + 1 not in looked:
            continue
        on_look(step + 1, total)
        # What is about to be used is waited for; else the device is asked without waiting.
        waits = step + 1 in tested | probed | {total}
        marks = lanes.failed_at().tolist() if waits else lookout.ask(lanes.failed_at())
        last = _share(trained, running, last)
        if marks is not None and any(mark != ALIVE for mark in marks):
            for place, mark in enumerate(marks):
                if mark != ALIVE:
                    index = running[place]
                    found = diagnose(tasks[index], lanes.state(place), *feeds[index].at(mark))
                    _end(trained[index], lanes.state(place), losses[:, index], found, feeds[index])
                    yield index, trained[index]
            places = [place for place, mark in enumerate(marks) if mark == ALIVE]
            running = [running[place] for place in places]
            if not running:
                return
            lanes.keep(places)
            columns = torch.tensor(running, device=losses.device)
            lookout.forget()
        if step + 1 in tested:
            for place, index in enumerate(running):
                _test(trained[index], members[index], lanes.state(place)["params"], step + 1)

    for place, index in enumerate(running):
        member, state = members[index], lanes.state(place)
        # What the last update did shows on the batch that would come next.
        x, y, _, masks = feeds[index].at(total)
        bad = forward_fault(member.task, state["params"], x, y, masks)
        divergence = None if bad is None else Divergence(total, *bad)
        if total in probed:
            member.on_probe(total, state["params"])
        _end(trained[index], state, losses[:, index], divergence, feeds[index])
        yield index, trained[index]


def _share(trained: Sequence[Trained], running: Sequence[int], last: float) -> float:
    """Divide the time since the last look among the networks that ran; return the time now."""
    now = time.perf_counter()
    for index in running:
        trained[index].seconds += (now - last) / len(running)
    return now


def _test(trained: Trained, member: Member, params: Params, step: int) -> None:
    task, dtype = member.task, member.cell.train.torch_dtype
    found = evaluate(task.model, params, member.data.test, member.scaling, task.objective, dtype)
    trained.add(step, "test_loss", found.loss)
    trained.add(step, "test_accuracy", found.accuracy)


def _end(
    trained: Trained, state: State, losses: Tensor, divergence: Divergence | None, feed: Feed
) -> None:
    """Record each step's loss; `train_loss` is the mean over the last epoch (or all there was)."""
    # Copies: a part of a stack's tensors would keep the whole of them in memory.
    trained.params = {name: tensor.clone() for name, tensor in state["params"].items()}
    trained.divergence = divergence
    count = feed.total if divergence is None else min(divergence.step + 1, feed.total)
    values = losses[:count].tolist()
    for step, value in enumerate(values):
        trained.add(step, "train_loss", value)
    if values and divergence is None:
        last = values[-feed.steps_an_epoch :]
        trained.train_loss = sum(last) / len(last)
    elif values:
        trained.train_loss = values[-1]
