"""A cell between its first draw and its last step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from experiments.data import Dataset
from experiments.inputs import calibration_images, probe_images
from experiments.scaling import FittedScaling
from experiments.schema import Cell
from experiments.training.checkpoint import Keeper
from experiments.training.member import Member
from experiments.training.progress import Kept, Progress
from experiments.training.step import Task
from fanin.inits import initialize
from fanin.probes.measure import Losses, Measured, measure
from fanin.probes.moments import random_cotangent
from fanin.seeds import generator


@dataclass
class Begun:
    """A cell, and what was measured of it so far.

    Parameters
    ----------
    model
        It holds the weights that were last drawn or probed.
    draws
        What was measured at initialization, by draw; it grows while draws are measured.
    probes
        What was measured in training, and where; it grows while the cell trains.
    seconds
        Spent before training.
    progress
        Where its training goes on from; None: from the model's weights.
    keeper
        Keeps all of this; None: nobody does.
    """

    config: Mapping[str, Any]
    cell: Cell
    model: nn.Module
    data: Dataset
    scaling: FittedScaling
    keeper: Keeper | None = None
    draws: dict[int, Measured] = field(default_factory=dict)
    probes: list[tuple[Measured, dict[str, Any]]] = field(default_factory=list)
    seconds: float = 0.0
    progress: Progress | None = None

    @property
    def step(self) -> int:
        """The step that its training begins with here."""
        return 0 if self.progress is None else self.progress.step

    def draw(self, number: int) -> None:
        """Give the model one draw of all its weights; each tensor has a stream of its own."""
        initialize(
            self.model,
            self.cell.init,
            lambda tensor: generator("weights", self.cell.seed_weights, number, tensor),
            calibration_images(self.cell, self.data, self.scaling),
        )

    def measure(self, draw: int) -> Measured:
        """Measure the weights that the model holds, along the draw's random direction."""
        cell, settings = self.cell, self.cell.probe
        images = probe_images(cell, self.data, self.scaling)
        rng = generator("cotangent", cell.seed_weights, draw)
        return measure(
            self.model,
            images,
            random_cotangent(len(images), cell.objective.n_outputs, rng),
            singles=tuple(image for image in settings.images if image < len(images)),
            targets=self.data.train.y[: settings.size],
            losses=Losses(cell.objective.per_example, cell.objective.loss),
            head=cell.objective.output,
            bins=settings.bins if settings.histograms else 0,
            with_sharpness=settings.sharpness,
            with_layer_sharpness=settings.layer_sharpness,
            kept=settings.tensors,
        )

    def measured(self) -> list[tuple[Measured, dict[str, Any]]]:
        """All that was measured, and where, in the order of the tables."""
        draws = [(self.draws[draw], {"draw": draw, "step": 0}) for draw in sorted(self.draws)]
        return draws + self.probes

    def member(self) -> Member:
        """What training needs of it."""
        cell = self.cell
        task = Task(self.model, cell.objective, cell.optim, cell.clip, cell.train.loss_bound)
        self.model.train()
        return Member(
            cell,
            task,
            self.data,
            self.scaling,
            self._probe,
            self.progress,
            self.keeper,
            self.keep,
        )

    def keep(self, progress: Progress | None) -> None:
        """Have all of it kept, and how far training is (None: not begun)."""
        if self.keeper is not None:
            draws = {draw: vars(measured) for draw, measured in self.draws.items()}
            probes = [(vars(measured), at) for measured, at in self.probes]
            self.keeper.save(Kept(draws, probes, self.seconds, progress))

    def take_up(self, kept: Kept) -> None:
        """Go on from what was kept."""
        self.draws = {draw: Measured(**columns) for draw, columns in kept.draws.items()}
        self.probes = [(Measured(**columns), at) for columns, at in kept.probes]
        self.seconds = kept.seconds
        self.progress = kept.progress

    def _probe(self, step: int, params: dict[str, Tensor]) -> None:
        _load(self.model, params)
        self.model.eval()
        self.probes.append((self.measure(0), {"draw": 0, "step": step}))
        self.model.train()


@torch.no_grad()
def _load(model: nn.Module, params: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        parameter.copy_(params[name])
