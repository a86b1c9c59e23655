"""Networks in training, side by side: one alone, or several as one program under `torch.vmap`.

Both run the same step (`training/step.py`) on the same inputs. What one network computes does not
depend, to the bit, on those beside it (`training/company.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from experiments.training.company import company
from experiments.training.feed import Feed, StackedFeed
from experiments.training.heap import keep_freed_memory
from experiments.training.step import State, Task, start
from experiments.training.two_ways import serial_step, stacked_step, varying_numbers


class Lanes(Protocol):
    """Networks that take each step together."""

    def step(self, number: int) -> Tensor:
        """Take one step; return the losses [network]."""

    def failed_at(self) -> Tensor:
        """The step at which each network diverged, `ALIVE` where none did [network]."""

    def state(self, place: int) -> State:
        """One network's state."""

    def keep(self, places: Sequence[int]) -> None:
        """Go on with these networks alone, renumbered in this order."""


class OneLane:
    """A network alone; `state` is where it goes on from (None: its model's weights)."""

    def __init__(self, task: Task, feed: Feed, state: State | None = None) -> None:
        keep_freed_memory()
        self._feed = feed
        self._step = serial_step(task)
        self._state = state or start(task)

    def step(self, number: int) -> Tensor:
        """Take one step; return the losses [1]."""
        self._state, loss = self._step(self._state, *self._feed.at(number))
        return loss.unsqueeze(0)

    def failed_at(self) -> Tensor:
        """The step at which it diverged, or `ALIVE` [1]."""
        failed: Tensor = self._state["failed_at"]
        return failed.unsqueeze(0)

    def state(self, place: int) -> State:
        """Its state."""
        return self._state

    def keep(self, places: Sequence[int]) -> None:
        """There is nothing to leave out."""


@dataclass
class _Stack:
    """The tensors of all networks; there may be more of these than networks that count."""

    state: State
    numbers: dict[str, Tensor]
    feed: StackedFeed


class StackedLanes:
    """Several networks of one architecture as one program.

    Parameters
    ----------
    tasks, feeds
        One a network; the tasks differ in weights and in their optimizers' numbers alone.
    begun
        Where each network goes on from; None: from its model's weights.
    """

    def __init__(
        self, tasks: Sequence[Task], feeds: Sequence[Feed], begun: Sequence[State] | None = None
    ) -> None:
        keep_freed_memory()
        self._feeds = list(feeds)
        self._company = company(feeds[0].cell, feeds[0].size)
        stacked = self._company.of(range(len(tasks)))
        states = [begun[place] if begun else start(tasks[place]) for place in stacked]
        self._stack = _Stack(
            tree_map(lambda *tensors: torch.stack(tensors), *states),
            varying_numbers([tasks[place].optim for place in stacked], feeds[0].device),
            StackedFeed([feeds[place] for place in stacked]),
        )
        self._step = stacked_step(tasks[0])

    def step(self, number: int) -> Tensor:
        """Take one step; return the losses [network]."""
        stack = self._stack
        stack.state, losses = self._step(stack.state, *stack.feed.at(number), stack.numbers)
        return losses[: len(self._feeds)]

    def failed_at(self) -> Tensor:
        """The step at which each network diverged, `ALIVE` where none did [network]."""
        failed: Tensor = self._stack.state["failed_at"]
        return failed[: len(self._feeds)]

    def state(self, place: int) -> State:
        """One network's state."""
        one: State = tree_map(lambda tensor: tensor[place], self._stack.state)
        return one

    def keep(self, places: Sequence[int]) -> None:
        """Go on with these networks alone, renumbered in this order."""
        stacked = self._company.of(places)
        chosen = torch.tensor(stacked, device=self._feeds[0].device)
        self._stack = _Stack(
            tree_map(lambda tensor: tensor[chosen], self._stack.state),
            {name: numbers[chosen] for name, numbers in self._stack.numbers.items()},
            StackedFeed([self._feeds[place] for place in stacked]),
        )
        self._feeds = [self._feeds[place] for place in places]
