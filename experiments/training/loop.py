"""The training loop: batches in, curves out; measuring is a callback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from experiments.config.schema import Cell
from experiments.data import Dataset
from experiments.models.dropout import dropout_masks
from experiments.scaling import FittedScaling
from experiments.seeds import generator
from experiments.training.batches import batches
from experiments.training.divergence import Divergence, diagnose, forward_fault
from experiments.training.evaluate import evaluate
from experiments.training.step import ALIVE, Params, Task, make_step, start

# Steps between two looks at the device: reading a mark back makes the host wait for the device,
# so not at every step; a network that has diverged is frozen and idles until the next look.
LOOK_EVERY = 16

OnProbe = Callable[[int, Params], None]
OnLook = Callable[[int, int], None]


@dataclass
class Trained:
    """What training left: parameters, curves, and where it diverged, if it did."""

    params: Params
    divergence: Divergence | None = None
    train_loss: float = float("nan")
    curves: dict[str, list[Any]] = field(
        default_factory=lambda: {"step": [], "metric": [], "value": []}
    )

    def add(self, step: int, metric: str, value: float) -> None:
        """Add one point to the curves."""
        for name, entry in zip(self.curves, (step, metric, value), strict=True):
            self.curves[name].append(entry)


def train(
    cell: Cell,
    task: Task,
    data: Dataset,
    scaling: FittedScaling,
    on_probe: OnProbe,
    on_look: OnLook,
) -> Trained:
    """Train one cell's network from the weights its model holds.

    Parameters
    ----------
    cell, task
        The configuration, and the parts of it that a step needs.
    data, scaling
        On the device that the network is on.
    on_probe
        Called with (step, params) before each step that `probe.steps` names.
    on_look
        Called with (steps done, steps in all) now and then.
    """
    train_set, device = data.train, data.train.x.device
    dtype = cell.train.torch_dtype
    total = cell.train.total_steps(len(train_set.x))
    size = cell.train.batch_of(len(train_set.x))
    step_once, state = make_step(task), start(task)
    losses = torch.zeros(total, dtype=torch.float64, device=device)
    done = Trained(state["params"])
    every = cell.train.evaluate_every
    tested = set(range(every, total, every)) if every else set()
    looked = {*range(LOOK_EVERY, total, LOOK_EVERY), total, *tested, *cell.probe.steps}

    def inputs(step: int, chosen: Tensor) -> tuple[Tensor, Tensor, float, Params]:
        chosen = chosen.to(device)
        masks = dropout_masks(task.model, size, generator("dropout", cell.seed, step), dtype)
        lr = cell.optim.lr * cell.schedule.factor(step, total)
        x = scaling.apply(train_set.x[chosen], dtype)
        return x, train_set.y[chosen], lr, {name: m.to(device) for name, m in masks.items()}

    recent: list[tuple[int, Tensor]] = []
    order = batches(len(train_set.x), size, total + 1, cell.seed_data)
    for step in range(total):
        if step in cell.probe.steps:
            on_probe(step, state["params"])
        chosen = next(order)
        recent.append((step, chosen))
        state, losses[step] = step_once(state, *inputs(step, chosen))
        if step + 1 in looked:
            on_look(step + 1, total)
            failed_at = int(state["failed_at"])
            if failed_at != ALIVE:
                batch = dict(recent)[failed_at]
                done.divergence = diagnose(task, state, *inputs(failed_at, batch))
                break
            recent.clear()
        if step + 1 in tested:
            found = evaluate(task.model, state["params"], data.test, scaling, task.objective, dtype)
            done.add(step + 1, "test_loss", found.loss)
            done.add(step + 1, "test_accuracy", found.accuracy)
    else:
        # What the last update did shows on the batch that would come next.
        x, y, _, masks = inputs(total, next(order))
        bad = forward_fault(task, state["params"], x, y, masks)
        done.divergence = None if bad is None else Divergence(total, *bad)
        if total in cell.probe.steps:
            on_probe(total, state["params"])
    done.params = state["params"]
    _add_losses(done, losses, total, len(train_set.x) // size)
    return done


def _add_losses(done: Trained, losses: Tensor, total: int, epoch: int) -> None:
    """Record each step's loss; `train_loss` is the mean over the last epoch (or all there was)."""
    count = total if done.divergence is None else min(done.divergence.step + 1, total)
    values = losses[:count].tolist()
    for step, value in enumerate(values):
        done.add(step, "train_loss", value)
    if values and done.divergence is None:
        last = values[-epoch:]
        done.train_loss = sum(last) / len(last)
    elif values:
        done.train_loss = values[-1]
