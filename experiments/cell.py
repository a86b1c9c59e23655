"""Run one cell: probe its draws, train it, and return its rows."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from experiments.config.identity import flatten
from experiments.config.schema import Cell, build_cell
from experiments.data import Data, Dataset, Split
from experiments.inits import initialize
from experiments.probes.measure import Losses, Measured, measure
from experiments.probes.moments import random_cotangent
from experiments.probes.table import stack
from experiments.result import CellResult
from experiments.scaling import FittedScaling, Scaling
from experiments.seeds import generator
from experiments.training.evaluate import evaluate
from experiments.training.loop import Member, OnLook, Trained, train
from experiments.training.step import Task

CALIBRATION = 128  # images: a batch of the size that Mishkin & Matas 2016 calibrate on


@dataclass(frozen=True)
class Begun:
    """A cell whose draws are measured and whose model holds the weights that train."""

    config: Mapping[str, Any]
    cell: Cell
    model: nn.Module
    data: Dataset
    scaling: FittedScaling
    probes: list[tuple[Measured, dict[str, Any]]]  # grows while it trains
    seconds: float

    def member(self) -> Member:
        """What training needs of it."""
        cell = self.cell
        task = Task(self.model, cell.objective, cell.optim, cell.clip, cell.train.loss_bound)
        self.model.train()
        return Member(cell, task, self.data, self.scaling, self._probe)

    def measure(self, draw: int, step: int) -> None:
        """Measure the weights that the model holds."""
        measured = _measure(self.cell, self.model, self.data, self.scaling, draw)
        self.probes.append((measured, {"draw": draw, "step": step}))

    def _probe(self, step: int, params: dict[str, Tensor]) -> None:
        _load(self.model, params)
        self.model.eval()
        self.measure(0, step)
        self.model.train()


def run_cell(
    config: Mapping[str, Any],
    device: torch.device,
    on_look: OnLook = lambda done, total: None,
) -> CellResult:
    """Measure and train what a coerced config describes.

    Parameters
    ----------
    config
        A coerced cell config (`experiments.config.schema.coerce_cell`).
    device
        Where the data and the network live. Random numbers are drawn on the CPU, so weights,
        batches and masks are the same on every device.
    on_look
        Called with (steps done, steps in all) now and then while training.

    Returns
    -------
    CellResult
        The cell's own columns (config values, outcome, metrics, seconds) and its `layers`,
        `histograms` and `curves`. Divergence is an outcome, never an exception.
    """
    begun = begin(config, device, on_look)
    trains = begun.cell.train.steps != 0
    return finish(begun, train(begun.member(), on_look) if trains else None)


def begin(
    config: Mapping[str, Any],
    device: torch.device,
    on_look: OnLook = lambda done, total: None,
) -> Begun:
    """Draw and measure a cell's weights; draw 0 comes last, the network that trains.

    `on_look` is called with 0 steps done once the data is there, which other cells may share.
    """
    started = time.perf_counter()
    cell = build_cell(config)
    data, scaling = prepared(cell, device)
    on_look(0, cell.train.total_steps(len(data.train)))
    model = cell.network().to(device, cell.train.torch_dtype)
    model.eval()
    begun = Begun(config, cell, model, data, scaling, [], 0.0)
    for draw in reversed(range(max(cell.probe.draws, 1))):
        draw_weights(cell, model, draw, data, scaling)
        if cell.probe.draws > 0:
            begun.measure(draw, 0)
    begun.probes.reverse()
    return replace(begun, seconds=time.perf_counter() - started)


def finish(begun: Begun, trained: Trained | None) -> CellResult:
    """Evaluate what training left (None: nothing was trained), and gather the cell's rows."""
    started = time.perf_counter()
    row = dict(flatten(begun.config)) | _outcome(begun, trained)
    took = begun.seconds + (trained.seconds if trained is not None else 0.0)
    row["seconds"] = took + time.perf_counter() - started
    return CellResult(
        row,
        {
            "layers": stack((measured.layers, at) for measured, at in begun.probes),
            "histograms": stack((measured.histograms, at) for measured, at in begun.probes),
            "curves": trained.curves if trained is not None else {},
        },
    )


def prepared(cell: Cell, device: torch.device) -> tuple[Dataset, FittedScaling]:
    """The cell's data on its device, with the scaling fitted to the training images."""
    return _data(cell.data, device), _fitted(cell.data, cell.scaling, device)


def probe_images(cell: Cell, data: Dataset, scaling: FittedScaling) -> Tensor:
    """The probe set as the network sees it: the first `probe.size` training images, scaled."""
    return scaling.apply(data.train.x[: cell.probe.size], cell.train.torch_dtype)


def calibration_images(cell: Cell, data: Dataset, scaling: FittedScaling) -> Tensor:
    """What a scheme that looks at data (LSUV) sees: training images, whatever is probed."""
    return scaling.apply(data.train.x[:CALIBRATION], cell.train.torch_dtype)


def draw_weights(
    cell: Cell, model: nn.Module, draw: int, data: Dataset, scaling: FittedScaling
) -> None:
    """Give the model one draw of all its weights; each tensor has a stream of its own."""
    initialize(
        model,
        cell.init,
        lambda tensor: generator("weights", cell.seed_weights, draw, tensor),
        calibration_images(cell, data, scaling),
    )


@lru_cache(maxsize=2)
def _data(data: Data, device: torch.device) -> Dataset:
    """Cells of a pack share one copy; two, so that a change of data set keeps no third."""
    loaded = data.load()

    def moved(split: Split) -> Split:
        return Split(split.x.to(device), split.y.to(device))

    return replace(loaded, train=moved(loaded.train), test=moved(loaded.test))


@lru_cache(maxsize=8)
def _fitted(data: Data, scaling: Scaling, device: torch.device) -> FittedScaling:
    """Cells of a pack share statistics too: a pass over all of CIFAR takes longer than a probe."""
    loaded = _data(data, device)
    return scaling.fit(loaded.train.x, loaded.full_scale).to(device)


def _measure(
    cell: Cell, model: nn.Module, data: Dataset, scaling: FittedScaling, draw: int
) -> Measured:
    images = probe_images(cell, data, scaling)
    settings = cell.probe
    n_logits = cell.objective.n_outputs
    return measure(
        model,
        images,
        random_cotangent(len(images), n_logits, generator("cotangent", cell.seed_weights, draw)),
        singles=tuple(image for image in settings.images if image < len(images)),
        targets=data.train.y[: settings.size],
        losses=Losses(cell.objective.per_example, cell.objective.loss),
        bins=settings.bins if settings.histograms else 0,
        with_sharpness=settings.sharpness,
    )


def _outcome(begun: Begun, done: Trained | None) -> dict[str, Any]:
    nan = float("nan")
    row = {
        "outcome": "ok",
        "outcome_step": None,
        "outcome_tensor": None,
        "outcome_reason": None,
        "test_accuracy": nan,
        "test_loss": nan,
        "train_loss": nan,
    }
    if done is None:
        return row
    row["train_loss"] = done.train_loss
    if done.divergence is not None:
        found = done.divergence
        return row | {
            "outcome": "diverged",
            "outcome_step": found.step,
            "outcome_tensor": found.tensor,
            "outcome_reason": found.reason,
        }
    cell = begun.cell
    tested = evaluate(
        begun.model,
        done.params,
        begun.data.test,
        begun.scaling,
        cell.objective,
        cell.train.torch_dtype,
    )
    return row | {"test_accuracy": tested.accuracy, "test_loss": tested.loss}


@torch.no_grad()
def _load(model: nn.Module, params: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        parameter.copy_(params[name])
