"""Run of one cell: draw and measure its weights, train the last draw, collect its rows."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from experiments.config.identity import flatten
from experiments.data import Dataset
from experiments.inputs import calibration_images, prepared, probe_images
from experiments.result import CellResult
from experiments.scaling import FittedScaling
from experiments.schema import Cell, build_cell, probe_quantities
from experiments.training.arithmetic import use_arithmetic
from experiments.training.checkpoint import CellCheckpoint, Checkpointer, TrainState
from experiments.training.engines import TrainSpec
from experiments.training.evaluate import evaluate
from experiments.training.loop import OnProgress, TrainResult, train
from experiments.training.step import Params, StepConfig
from fanin.inits import initialize
from fanin.models import ModuleModel, batch_statistics
from fanin.probes.measure import LossFunctions, ProbeTables, Tracer, concat_tables, measure
from fanin.probes.moments import random_cotangent
from fanin.probes.trace import trace
from fanin.seeds import make_generator
from fanin.theory.graph.tracer import graph_tracer

Measurement = tuple[ProbeTables, dict[str, Any]]  # rows, and columns with one value for all rows


def run_cell(
    config: Mapping[str, Any],
    device: torch.device,
    on_progress: OnProgress = lambda done, total: None,
    checkpointer: Checkpointer | None = None,
) -> CellResult:
    """Measure and train one cell.

    Parameters
    ----------
    config
        A coerced cell config (`experiments.schema.coerce_cell`).
    device
        Device of the data and the network. Random numbers are drawn on the CPU, so weights,
        batches and masks are the same on every device.
    on_progress
        Called with (steps done, total steps): once when the data is loaded, with 0 steps done, and
        regularly during training.
    checkpointer
        Writes the cell's checkpoints and resumes from the last one. On the same hardware the
        resumed result is bit-identical; only `seconds` differs. None disables checkpointing.

    Returns
    -------
    CellResult
        The cell's own columns (config values, outcome, metrics, seconds) and its `layers`,
        `histograms`, `tensors` and `curves`. Divergence is an outcome, never an exception.

    Raises
    ------
    Stopped
        `checkpointer.stop` returned True before the cell finished.
    """
    run = CellRun.start(config, device, on_progress, checkpointer)
    run.measure_draws()
    trained = train(run.train_spec(), on_progress) if run.cell.train.steps != 0 else None
    return run.finish(trained)


@dataclass
class CellRun:
    """A running cell and its measurements so far.

    Parameters
    ----------
    model
        The network, with the weights that were measured last.
    draws
        Measurements at initialization, by draw.
    probes
        Measurements during training.
    seconds
        Time spent before training.
    train_state
        Training state to resume from; None starts with the model's weights.
    checkpointer
        Writes checkpoints. None disables checkpointing.
    """

    config: Mapping[str, Any]
    cell: Cell
    model: nn.Module
    data: Dataset
    scaling: FittedScaling
    checkpointer: Checkpointer | None = None
    draws: dict[int, ProbeTables] = field(default_factory=dict)
    probes: list[Measurement] = field(default_factory=list)
    seconds: float = 0.0
    train_state: TrainState | None = None

    @classmethod
    def start(
        cls,
        config: Mapping[str, Any],
        device: torch.device,
        on_progress: OnProgress = lambda done, total: None,
        checkpointer: Checkpointer | None = None,
        engine: str = "serial",
    ) -> CellRun:
        """Load the data, build the network, and restore the cell's checkpoint if it has one."""
        started = time.perf_counter()
        cell = build_cell(config)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # for operations without a tensor that has a device
        use_arithmetic(cell.train.dtype, device)
        data, scaling = prepared(cell, device)
        on_progress(0, cell.train.total_steps(len(data.train)))
        model = cell.network().to(device, cell.train.torch_dtype)
        run = cls(config, cell, model, data, scaling, checkpointer)
        if checkpointer is not None:
            key = {
                "config": json.dumps(config, sort_keys=True),
                "device": device.type,
                "threads": str(torch.get_num_threads()),
                "engine": engine,  # the engines round differently
            }
            if (checkpoint := checkpointer.load(key)) is not None:
                run.restore(checkpoint)
        run.seconds += time.perf_counter() - started
        return run

    def restore(self, checkpoint: CellCheckpoint) -> None:
        """Restore measurements and training state from a checkpoint."""
        self.draws = {draw: ProbeTables(**tables) for draw, tables in checkpoint.draws.items()}
        self.probes = [(ProbeTables(**tables), at) for tables, at in checkpoint.probes]
        self.seconds = checkpoint.seconds
        self.train_state = checkpoint.train_state

    def save(self, train_state: TrainState | None) -> None:
        """Write a checkpoint of all measurements and the training state (None before training)."""
        if self.checkpointer is not None:
            draws = {draw: vars(measured) for draw, measured in self.draws.items()}
            probes = [(vars(measured), at) for measured, at in self.probes]
            self.checkpointer.save(CellCheckpoint(draws, probes, self.seconds, train_state))

    def measure_draws(self) -> None:
        """Initialize and measure the network once per draw; draw 0, the trained one, is last."""
        n_draws, started, before = self.cell.probe.draws, time.perf_counter(), self.seconds
        self.model.eval()
        for draw in reversed(range(max(n_draws, 1))):
            to_measure = draw < n_draws and draw not in self.draws
            if to_measure or draw == 0:
                self.draw_weights(draw)
            if to_measure:
                self.draws[draw] = self.measure(draw)
            self.seconds = before + time.perf_counter() - started
            checkpointer = self.checkpointer
            if to_measure and checkpointer is not None and checkpointer.should_save():
                self.save(None)
                checkpointer.raise_if_stopped()

    def draw_weights(self, draw: int) -> None:
        """Draw all weights of the model; each tensor has its own random stream."""
        if isinstance(self.cell.model, ModuleModel):  # may have other weights, and buffers
            self.model.load_state_dict(self.cell.network(draw).state_dict())
        with batch_statistics(self.model):
            initialize(
                self.model,
                self.cell.init,
                lambda tensor: make_generator("weights", self.cell.seed_weights, draw, tensor),
                calibration_images(self.cell, self.data, self.scaling),
            )

    def measure(self, draw: int) -> ProbeTables:
        """Measure the model's current weights, with the draw's random cotangent."""
        cell, settings = self.cell, self.cell.probe
        images = probe_images(cell, self.data, self.scaling)
        rng = make_generator("cotangent", cell.seed_weights, draw)
        with batch_statistics(self.model):
            return measure(
                self.model,
                images,
                random_cotangent(len(images), cell.objective.n_outputs, rng),
                single_images=tuple(image for image in settings.images if image < len(images)),
                targets=self.data.train.y[: settings.size],
                losses=LossFunctions(cell.objective.per_example, cell.objective.loss),
                head=cell.objective.output,
                bins=settings.bins if settings.histograms else 0,
                with_sharpness=settings.sharpness,
                with_layer_sharpness=settings.layer_sharpness,
                tensors=settings.tensors,
                quantities=probe_quantities(settings.quantities),
                tracer=self.tracer,
            )

    @cached_property
    def tracer(self) -> Tracer:
        """Function that records the measured layers; with `probe.sums` from the network's graph."""
        if not self.cell.probe.sums:
            return trace
        return graph_tracer(self.model, probe_images(self.cell, self.data, self.scaling))

    def train_spec(self) -> TrainSpec:
        """Return the trainer's input, with `probe` and `save` as callbacks."""
        cell = self.cell
        self.model.train()
        return TrainSpec(
            cell,
            StepConfig(self.model, cell.objective, cell.optim, cell.clip, cell.train.loss_bound),
            self.data,
            self.scaling,
            on_probe=self.probe,
            resume=self.train_state,
            checkpointer=self.checkpointer,
            on_save=self.save,
        )

    def probe(self, step: int, params: Params) -> None:
        """Measure the network with `params`, its parameters after `step` training steps."""
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if name in params:  # else it is not trained
                    parameter.copy_(params[name])
        self.model.eval()
        self.probes.append((self.measure(0), {"draw": 0, "step": step}))
        self.model.train()

    def finish(self, trained: TrainResult | None) -> CellResult:
        """Evaluate the trained network (None if there was no training) and collect the rows."""
        started = time.perf_counter()
        row = dict(flatten(self.config)) | self._outcome(trained)
        before = self.seconds + (trained.seconds if trained is not None else 0.0)
        row["seconds"] = before + time.perf_counter() - started
        draws = [(self.draws[draw], {"draw": draw, "step": 0}) for draw in sorted(self.draws)]
        measurements = draws + self.probes
        return CellResult(
            row,
            {
                "layers": concat_tables((rows.layers, at) for rows, at in measurements),
                "histograms": concat_tables((rows.histograms, at) for rows, at in measurements),
                "tensors": concat_tables((rows.tensors, at) for rows, at in measurements),
                "curves": trained.curves if trained is not None else {},
            },
        )

    def _outcome(self, trained: TrainResult | None) -> dict[str, Any]:
        row: dict[str, Any] = {
            "outcome": "ok",
            "outcome_step": None,
            "outcome_tensor": None,
            "outcome_reason": None,
            "test_accuracy": float("nan"),
            "test_loss": float("nan"),
            "train_loss": float("nan"),
        }
        if trained is None:
            return row
        row["train_loss"] = trained.train_loss
        if (divergence := trained.divergence) is not None:
            row["outcome"] = "diverged"
            row["outcome_step"] = divergence.step
            row["outcome_tensor"] = divergence.tensor
            row["outcome_reason"] = divergence.reason
            return row
        evaluation = evaluate(
            self.model,
            trained.params,
            self.data.test,
            self.scaling,
            self.cell.objective,
            self.cell.train.torch_dtype,
        )
        row["test_accuracy"], row["test_loss"] = evaluation.accuracy, evaluation.loss
        return row
