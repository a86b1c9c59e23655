"""The training loop: batches in, curves out; measuring and keeping are callbacks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from experiments.training.divergence import Divergence, diagnose, forward_fault
from experiments.training.feed import Feed
from experiments.training.lanes import Lanes, OneLane, StackedLanes
from experiments.training.lookout import Lookout
from experiments.training.member import Member
from experiments.training.progress import Progress
from experiments.training.step import ALIVE, State
from experiments.training.trained import Trained

# Steps between two looks at the device; a network that has diverged is frozen and idles until then.
LOOK_EVERY = 16

OnLook = Callable[[int, int], None]


def train(member: Member, on_look: OnLook) -> Trained:
    """Train one cell's network, from the weights its model holds or from its progress.

    Parameters
    ----------
    member
        The cell; data and network are on one device.
    on_look
        Called with (steps done, steps in all) now and then.

    Raises
    ------
    Stopped
        The member's keeper was told to stop.
    """
    ((_, trained),) = _train([member], on_look, stacked=False)
    return trained


def train_stacked(members: Sequence[Member], on_look: OnLook) -> Iterator[tuple[int, Trained]]:
    """Train cells as one program; a network that diverges leaves it and costs no more time.

    Parameters
    ----------
    members
        Cells that differ in scaling, init, seeds and their optimizer's numbers alone, and are all
        at the same step. When to keep how far they are, one of their keepers says for all.
    on_look
        As for `train`.

    Yields
    ------
    tuple
        Index in `members`, and what training left, as each one ends.

    Raises
    ------
    Stopped
        As for `train`.
    """
    return _train(members, on_look, stacked=True)


def _train(
    members: Sequence[Member], on_look: OnLook, stacked: bool
) -> Iterator[tuple[int, Trained]]:
    cell = members[0].cell
    feeds = [Feed(m.cell, m.task, m.data, m.scaling) for m in members]
    lanes = _lanes(members, feeds, stacked)
    total, every = feeds[0].total, cell.train.evaluate_every
    tested = set(range(every, total, every)) if every else set()
    probed = set(cell.probe.steps)
    looked = {*range(LOOK_EVERY, total, LOOK_EVERY), total, *tested, *probed}
    first, losses = _losses(members, feeds[0])
    trained = [Trained.so_far(m.progress) for m in members]
    running = list(range(len(members)))  # indices of members, in the lanes' order
    columns = torch.tensor(running, device=losses.device)
    lookout, last = Lookout(), time.perf_counter()
    if first:
        on_look(first, total)

    for step in range(first, total):
        if step in probed:
            for place, index in enumerate(running):
                members[index].on_probe(step, lanes.state(place)["params"])
        losses[step, columns] = lanes.step(step).double()
        if step + 1 in looked:
            on_look(step + 1, total)
            # What is about to be used is waited for; else the device is asked without waiting.
            waits = step + 1 in tested | probed | {total}
            marks = lanes.failed_at().tolist() if waits else lookout.ask(lanes.failed_at())
            last = _share(trained, running, last)
            if marks is not None and any(mark != ALIVE for mark in marks):
                for place, mark in enumerate(marks):
                    if mark != ALIVE:
                        index = running[place]
                        inputs, state = feeds[index].at(mark), lanes.state(place)
                        found = diagnose(members[index].task, state, *inputs)
                        trained[index].end(state, losses[:, index], found, feeds[index])
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
                    trained[index].test(members[index], lanes.state(place)["params"], step + 1)
        keeper = members[running[0]].keeper
        if keeper is not None and keeper.due():
            last = _share(trained, running, last)
            for place, index in enumerate(running):
                done, state = losses[: step + 1, index], lanes.state(place)
                members[index].on_keep(_progress(members[index], trained[index], done, state))
            keeper.go_on()

    for place, index in enumerate(running):
        member, state = members[index], lanes.state(place)
        # What the last update did shows on the batch that would come next.
        x, y, _, masks = feeds[index].at(total)
        bad = forward_fault(member.task, state["params"], x, y, masks)
        divergence = None if bad is None else Divergence(total, *bad)
        if total in probed:
            member.on_probe(total, state["params"])
        trained[index].end(state, losses[:, index], divergence, feeds[index])
        yield index, trained[index]


def _lanes(members: Sequence[Member], feeds: Sequence[Feed], stacked: bool) -> Lanes:
    """The networks as they are before the first step of this process."""
    tasks, device = [m.task for m in members], feeds[0].device
    before = [m.progress.copied(device) for m in members if m.progress is not None]
    for task, progress in zip(tasks, before, strict=False):
        progress.load_buffers(task.model)
    states = [progress.state for progress in before]
    if stacked:
        return StackedLanes(tasks, feeds, states or None)
    return OneLane(tasks[0], feeds[0], states[0] if states else None)


def _losses(members: Sequence[Member], feed: Feed) -> tuple[int, Tensor]:
    """The number of the first step to take, and room for every loss, those before filled in."""
    losses = torch.zeros(feed.total, len(members), dtype=torch.float64, device=feed.device)
    first = 0
    for index, member in enumerate(members):
        if member.progress is not None:
            first = member.progress.step
            losses[:first, index] = member.progress.losses
    return first, losses


def _progress(member: Member, trained: Trained, losses: Tensor, state: State) -> Progress:
    buffers = dict(member.task.model.named_buffers())
    return Progress(len(losses), state, buffers, losses, trained.curves, trained.seconds)


def _share(trained: Sequence[Trained], running: Sequence[int], last: float) -> float:
    """Divide the time since the last look among the networks that ran; return the time now."""
    now = time.perf_counter()
    for index in running:
        trained[index].seconds += (now - last) / len(running)
    return now
