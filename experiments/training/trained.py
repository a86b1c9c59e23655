"""What training leaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from experiments.training.divergence import Divergence
from experiments.training.evaluate import evaluate
from experiments.training.feed import Feed
from experiments.training.member import Member
from experiments.training.progress import Progress
from experiments.training.step import Params, State


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

    @classmethod
    def so_far(cls, progress: Progress | None) -> Trained:
        """What there is before the first step of this process."""
        if progress is None:
            return cls({})
        curves = {name: list(column) for name, column in progress.curves.items()}
        return cls({}, seconds=progress.seconds, curves=curves)

    def add(self, step: int, metric: str, value: float) -> None:
        """Add one point to the curves."""
        for name, entry in zip(self.curves, (step, metric, value), strict=True):
            self.curves[name].append(entry)

    def test(self, member: Member, params: Params, step: int) -> None:
        """Add what a network makes of the test set after so many steps."""
        task, dtype = member.task, member.cell.train.torch_dtype
        found = evaluate(
            task.model, params, member.data.test, member.scaling, task.objective, dtype
        )
        self.add(step, "test_loss", found.loss)
        self.add(step, "test_accuracy", found.accuracy)

    def end(self, state: State, losses: Tensor, divergence: Divergence | None, feed: Feed) -> None:
        """Record each step's loss; `train_loss` is the mean over the last epoch (or all of it)."""
        # Copies: a part of a stack's tensors would keep the whole of them in memory.
        self.params = {name: tensor.clone() for name, tensor in state["params"].items()}
        self.divergence = divergence
        count = feed.total if divergence is None else min(divergence.step + 1, feed.total)
        values = losses[:count].tolist()
        for step, value in enumerate(values):
            self.add(step, "train_loss", value)
        if values and divergence is None:
            last = values[-feed.steps_an_epoch :]
            self.train_loss = sum(last) / len(last)
        elif values:
            self.train_loss = values[-1]
