"""Tables of the sweep `dying_relu`: which networks die in one step, and which learn both images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from analysis.figures.dying_relu.theory import CIRCLE, CPU, CROSS, predicted_killing_rate
from analysis.figures.query import select
from analysis.load import Results
from experiments.inputs import prepared
from experiments.schema import Cell, build_cell
from experiments.training.loader import BatchOrder
from fanin.errors import FaninError

TRAINING, FIRST_STEP, PICTURE = "training", "first step", "picture"
REPORTED, SMALL_RANGE, TANH = "as reported", "U(-0.1, 0.1)", "tanh"
COMBINED, FILTER_RATE = "U(-0.1, 0.1) and tanh", "filter's rate x 0.001"
OWN_BIAS, OWN_BIAS_FILTER_RATE = "own bias gradient", "own bias gradient, filter's rate x 0.001"
LINEAR = "linear layer alone"
RECIPE_1, RECIPE = "He, standardized, 1 channel", "He, standardized, 16 channels"
NETWORKS = (
    *(REPORTED, OWN_BIAS, SMALL_RANGE, TANH, COMBINED, FILTER_RATE, OWN_BIAS_FILTER_RATE),
    *(RECIPE_1, RECIPE, LINEAR),
)
UNIT, RAW = "inputs 0 to 1", "inputs 0 to 255"
INPUTS = {"unit": UNIT, "raw": RAW, "standardize": "standardized inputs"}
EARLY = (100, 400)  # steps before the last one at which trained networks are scored, too


def network(cell: Mapping[str, Any]) -> str:
    """Return the name of a cell's network."""
    if cell["model"] == "linear":
        return LINEAR
    if cell["init"] == "he_normal":
        return RECIPE if cell["model.channels"] > 1 else RECIPE_1
    factor, own_bias = cell.get("clip.factors.conv1"), cell["clip.bias"] == "own"
    if factor is not None and factor < 1:
        return OWN_BIAS_FILTER_RATE if own_bias else FILTER_RATE
    small, tanh = cell["init.a"] < 0, cell["activation"] == "tanh"
    if small or tanh:
        return COMBINED if small and tanh else SMALL_RANGE if small else TANH
    return OWN_BIAS if own_bias else REPORTED


def summarize(results: Results) -> dict[str, pd.DataFrame]:
    """Return the outcome of each network, and the images of one of them.

    Columns of `cells`: `kind`, `network`, `inputs`, `side`, `lr`, `steps`; `correct` (1 if both
    images are classified correctly after this number of steps), `dead` (1 if both feature maps are
    zero after the first step on the cross), `dead_at_end` (after the last step),
    `rate_predicted`. A trained network has a row for its last step and for each step of `EARLY`.
    """
    if results.cells.empty or results.layers.empty:
        raise FaninError(f"{results.folder.root}: no network has been trained yet; run the sweep")
    dead = _by_step(results.layers, "dead_fraction", "conv1", -1)
    logits = {image: _by_step(results.layers, "preact_mean", "fc1", image) for image in (0, 1)}
    plan, rates = results.plan, dict[tuple[str, int], float]()
    rows = []
    for cell in results.cells.to_dict("records"):
        cell_id, last = str(cell["cell_id"]), int(cell["train.steps"])
        config = plan[cell_id]["config"]
        labels, first = _labels_and_first_batch(build_cell(config))
        cross_step = 1 if CROSS in labels[first].tolist() else 2
        kind = _kind(cell)
        key = str(cell["scaling"]), int(cell["data.side"])
        if kind == FIRST_STEP and key not in rates:
            rates[key] = predicted_killing_rate(config)
        early = [step for step in EARLY if step < last] if kind == TRAINING else []
        for steps in (*early, last):
            positive = [logits[image].get((cell_id, steps), np.nan) > 0 for image in (0, 1)]
            rows.append(
                {
                    "cell_id": cell_id,
                    "seed": int(cell["seed"]),
                    "kind": kind,
                    "network": network(cell),
                    "inputs": INPUTS[str(cell["scaling"])],
                    "side": int(cell["data.side"]),
                    "lr": float(cell["optim.lr"]),
                    "steps": steps,
                    "correct": float(positive == (labels == CIRCLE).tolist()),
                    "dead": float(dead.get((cell_id, cross_step), np.nan) == 1),
                    "dead_at_end": float(dead.get((cell_id, last), np.nan) == 1),
                    "rate_predicted": rates.get(key, np.nan) if kind == FIRST_STEP else np.nan,
                    "cross_step": cross_step,
                }
            )
    table = pd.DataFrame(rows)
    pictures = _pictures(results, table)
    return {"cells": table.drop(columns=["cell_id", "cross_step"]), "pictures": pictures}


def _kind(cell: Mapping[str, Any]) -> str:
    if "weight" in str(cell["probe.tensors"]):
        return PICTURE
    return FIRST_STEP if cell["train.steps"] == 2 else TRAINING


def _labels_and_first_batch(cell: Cell) -> tuple[Tensor, Tensor]:
    """Return the labels of all images and the indices of the first batch."""
    labels = prepared(cell, CPU)[0].train.y
    size = cell.train.batch_of(len(labels))
    return labels, BatchOrder(len(labels), size, cell.seed_data).at(0)


def _by_step(layers: pd.DataFrame, quantity: str, layer: str, image: int) -> pd.Series:
    """Return a quantity of the trained networks by cell and step."""
    rows = select(layers, quantity=quantity, layer_name=layer, image=image, draw=0)
    keys = [rows["cell_id"].astype(str), rows["step"].astype(int)]
    return pd.Series(rows["value"].to_numpy(), index=pd.MultiIndex.from_arrays(keys))


def _pictures(results: Results, table: pd.DataFrame) -> pd.DataFrame:
    """Return the tensors of the network with saved tensors, before and after its step.

    Columns: `tensor`, `label` (of the image; -1 for the filter), `step` (0: before, 1: after),
    `side`, `index`, `value`.
    """
    saved = table[table["kind"] == PICTURE]
    if saved.empty:
        return pd.DataFrame({"tensor": [""], "label": -1, "step": 0, "index": 0, "value": 0.0})
    cell_id, cross_step = str(saved["cell_id"].iloc[0]), int(saved["cross_step"].iloc[0])
    labels, _ = _labels_and_first_batch(build_cell(results.plan[cell_id]["config"]))
    rows = results.tensors[results.tensors["cell_id"].astype(str) == cell_id]
    wanted = (rows["layer_name"].astype(str) + "." + rows["quantity"].astype(str)).isin(
        ["conv1.weight", "conv1.input", "conv1.act", "fc1.input_grad"]
    )
    rows = rows[wanted & rows["step"].isin([0, cross_step])]
    return pd.DataFrame(
        {
            "tensor": rows["quantity"].astype(str),
            "label": [int(labels[i]) if i >= 0 else -1 for i in rows["image"]],
            "step": (rows["step"] > 0).astype(int),
            "index": rows["index"].astype(int),
            "value": rows["value"].astype(float),
        }
    ).reset_index(drop=True)
