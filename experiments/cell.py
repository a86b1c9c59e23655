"""Run one cell: probe its draws, train it, and return its rows."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import torch

from experiments.begun import Begun
from experiments.config.identity import flatten
from experiments.inputs import prepared, probe_images
from experiments.result import CellResult
from experiments.schema import build_cell
from experiments.training.checkpoint import Keeper
from experiments.training.evaluate import evaluate
from experiments.training.loop import OnLook, train
from experiments.training.trained import Trained
from fanin.probes.table import stack

__all__ = ["begin", "finish", "prepared", "probe_images", "run_cell"]


def run_cell(
    config: Mapping[str, Any],
    device: torch.device,
    on_look: OnLook = lambda done, total: None,
    keeper: Keeper | None = None,
) -> CellResult:
    """Measure and train what a coerced config describes.

    Parameters
    ----------
    config
        A coerced cell config (`experiments.schema.coerce_cell`).
    device
        Where the data and the network live. Random numbers are drawn on the CPU, so weights,
        batches and masks are the same on every device.
    on_look
        Called with (steps done, steps in all) now and then while training.
    keeper
        Keeps how far the cell is, and says where to go on from. On the same hardware what comes
        out is the same to the bit, but for `seconds`, which adds up what was kept.

    Returns
    -------
    CellResult
        The cell's own columns (config values, outcome, metrics, seconds) and its `layers`,
        `histograms`, `tensors` and `curves`. Divergence is an outcome, never an exception.

    Raises
    ------
    Stopped
        `keeper.stop` said so, and the cell was not done.
    """
    begun = begin(config, device, on_look, keeper)
    trains = begun.cell.train.steps != 0
    return finish(begun, train(begun.member(), on_look) if trains else None)


def begin(
    config: Mapping[str, Any],
    device: torch.device,
    on_look: OnLook = lambda done, total: None,
    keeper: Keeper | None = None,
    engine: str = "serial",
) -> Begun:
    """Draw and measure a cell's weights; draw 0 comes last, the network that trains.

    `on_look` is called with 0 steps done once the data is there, which other cells may share. What
    another engine has kept is not used: its last bits are others.
    """
    started = time.perf_counter()
    cell = build_cell(config)
    data, scaling = prepared(cell, device)
    on_look(0, cell.train.total_steps(len(data.train)))
    model = cell.network().to(device, cell.train.torch_dtype)
    model.eval()
    begun = Begun(config, cell, model, data, scaling, keeper)
    kept = None if keeper is None else keeper.open(_about(config, device, engine))
    if kept is not None:
        begun.take_up(kept)
    spent = begun.seconds
    for draw in reversed(range(max(cell.probe.draws, 1))):
        wanted = draw < cell.probe.draws and draw not in begun.draws
        if wanted or draw == 0:
            begun.draw(draw)
        if wanted:
            begun.draws[draw] = begun.measure(draw)
        begun.seconds = spent + time.perf_counter() - started
        if wanted and keeper is not None and keeper.due():
            begun.keep(None)
            keeper.go_on()
    return begun


def finish(begun: Begun, trained: Trained | None) -> CellResult:
    """Evaluate what training left (None: nothing was trained), and gather the cell's rows."""
    started = time.perf_counter()
    row = dict(flatten(begun.config)) | _outcome(begun, trained)
    took = begun.seconds + (trained.seconds if trained is not None else 0.0)
    row["seconds"] = took + time.perf_counter() - started
    measured = begun.measured()
    return CellResult(
        row,
        {
            "layers": stack((each.layers, at) for each, at in measured),
            "histograms": stack((each.histograms, at) for each, at in measured),
            "tensors": stack((each.tensors, at) for each, at in measured),
            "curves": trained.curves if trained is not None else {},
        },
    )


def _about(config: Mapping[str, Any], device: torch.device, engine: str) -> dict[str, str]:
    """What must be the same for a cell to go on."""
    return {
        "config": json.dumps(config, sort_keys=True),
        "device": device.type,
        "threads": str(torch.get_num_threads()),
        "engine": engine,
    }


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
