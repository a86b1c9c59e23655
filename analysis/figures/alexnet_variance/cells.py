"""Tables of the sweep `alexnet_variance`: moments by layer, outputs, dead channels and training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.query import select
from analysis.load import Results
from analysis.predictions import predict_cell
from experiments.config.groups import PREDICTION_GROUPS
from fanin.errors import FaninError

FORMULA, LARGE_WEIGHTS, DEPTH, TRAINING = "formula", "large weights", "depth", "training"
FORWARD, BACKWARD = "preact_m2", "vjp_m2"
NORM_NAMES = {
    "none": "no normalization",
    "mean_only": "means subtracted",
    "layer": "layer normalization",
    "batch": "batch normalization",
}
RESPONSE = "local response normalization"
INIT_NAMES = {
    "he_normal": "He",
    "xavier_normal": "Xavier",
    "pytorch_default": "PyTorch default",
    "alexnet2012": "2012",
    "normal": "N(0, 0.01²)",
}
INIT_2012_FULL = "2012 (LRN, 2 groups)"
N_LAYERS = 8  # weight layers of an AlexNet
LOG_MIN, LOG_MAX = -38.0, 38.5  # log10 of the smallest normal and of the largest float32


def part(cell: Mapping[str, Any]) -> str:
    """Return the part of conf/sweep/alexnet_variance.yaml that has this cell."""
    if cell["model"] == "alexnet":
        return LARGE_WEIGHTS if cell["init"] == "uniform" else FORMULA
    return TRAINING if cell["train.steps"] > 0 else DEPTH


def init_name(cell: Mapping[str, Any]) -> str:
    """Return the label of a cell's init."""
    if cell["init"] == "uniform":
        return f"U({cell['init.a']:g}, {cell['init.b']:g})"
    if cell["init"] == "alexnet2012" and cell["model.lrn"]:
        return INIT_2012_FULL
    return INIT_NAMES[str(cell["init"])]


def norm_name(cell: Mapping[str, Any]) -> str:
    """Return the label of a cell's normalization."""
    if cell["model"] == "alexnet" and cell["model.lrn"]:
        return RESPONSE
    return NORM_NAMES[str(cell["model.norm"])]


def summarize(results: Results) -> dict[str, pd.DataFrame]:
    """Return the tables of the study.

    `cells` has a row per network: `log_output` (log10 of the outputs' root mean square before
    training, mean over draws), `dead` (share of dead channels in the last hidden layer) and
    `accuracy`. For the part `formula` it has a row per layer instead: log10 of the second moments
    forward (`log_forward`) and backward (`log_backward`), with their predictions by He's formula
    and by theory. `moments` has the second moment after the ReLU by layer of the trained networks,
    and `dead` the share of dead channels by layer of plain networks with He's init.
    """
    if results.cells.empty or results.layers.empty:
        raise FaninError(f"{results.folder.root}: no layer has been measured yet; run the sweep")
    cells, layers = results.cells, results.layers
    records = [{str(k): v for k, v in row.items()} for row in cells.to_dict("records")]
    ids = cells["cell_id"].astype(str)
    diverged = cells["outcome"] == "diverged"
    table = pd.DataFrame(
        {
            "cell_id": ids,
            "seed": cells["seed"].astype(int),
            "part": [part(record) for record in records],
            "init": [init_name(record) for record in records],
            "norm": [norm_name(record) for record in records],
            "depth": pd.to_numeric(cells.get("model.depth", np.nan)),
            "lr": cells["optim.lr"].astype(float),
            "log_output": ids.map(_log_outputs(layers)),
            "dead": ids.map(_dead(layers)),
            "accuracy": cells["test_accuracy"].astype(float).mask(diverged, 0.1),
        }
    )
    parts = table["part"]
    table["log_output"] = table["log_output"].where(parts.isin([LARGE_WEIGHTS, DEPTH]))
    table["dead"] = table["dead"].where(parts == DEPTH)
    table["accuracy"] = table["accuracy"].where(parts == TRAINING)
    by_layer = _formula(results, table[parts == FORMULA])
    kept = pd.concat([table[parts != FORMULA], by_layer], ignore_index=True)
    # Null models with a trend need a value in every row.
    kept = kept.fillna({"layer": 0, "depth": N_LAYERS, "lr": 0.0})
    draws = cells.groupby(parts.to_numpy())["probe.draws"].first()
    setting = pd.DataFrame({f"draws {name}": [float(n)] for name, n in draws.items()})
    return {
        "cells": kept.drop(columns="cell_id"),
        "moments": _moments(layers, table[parts == TRAINING]),
        "dead": _dead_by_layer(layers, table[parts == DEPTH]),
        "setting": setting,
    }


def _initial(layers: pd.DataFrame, quantity: str) -> pd.DataFrame:
    rows = select(layers, quantity=quantity, image=-1, step=0)
    return rows[rows["layer"] > 0].assign(cell_id=lambda frame: frame["cell_id"].astype(str))


def _log10(values: pd.Series) -> pd.Series:
    return np.log10(values.fillna(np.inf).clip(1e-300, 1e300))


def _log_outputs(layers: pd.DataFrame) -> pd.Series:
    rows = _initial(layers, FORWARD)
    last = rows[rows["layer"] == rows.groupby("cell_id")["layer"].transform("max")]
    log = (_log10(last["value"]) / 2).clip(LOG_MIN, LOG_MAX)
    return log.groupby(last["cell_id"]).mean()


def _dead(layers: pd.DataFrame) -> pd.Series:
    rows = _initial(layers, "dead_fraction")
    last = rows[rows["layer"] == rows.groupby("cell_id")["layer"].transform("max")]
    return last.groupby("cell_id")["value"].mean()


def _formula(results: Results, about: pd.DataFrame) -> pd.DataFrame:
    """Return measured and predicted log10 second moments, a row per network and layer."""
    columns = ["log_forward", "he_forward", "theory_forward"]
    columns += ["log_backward", "he_backward", "theory_backward", "layer", "layer_name"]
    if about.empty:
        return pd.DataFrame(columns=[*about.columns, *columns]).astype({"seed": int})
    cache: dict[str, pd.DataFrame] = {}
    frames = []
    for row in about.to_dict("records"):
        config = results.plan[row["cell_id"]]["config"]
        key = json.dumps({group: config[group] for group in PREDICTION_GROUPS}, sort_keys=True)
        if key not in cache:
            cache[key] = predict_cell(config, ("he", "field"), whole_set=True)
        own = results.layers[results.layers["cell_id"].astype(str) == row["cell_id"]]
        table = pd.DataFrame()
        for quantity, name in ((FORWARD, "forward"), (BACKWARD, "backward")):
            measured = _initial(own, quantity).groupby(["layer", "layer_name"], observed=True)
            table[f"log_{name}"] = _log10(measured["value"].mean())
            for theory, label in (("he", "he"), ("field", "theory")):
                lines = select(cache[key], quantity=quantity, image=-1, theory=theory)
                values = _log10(lines.set_index("layer")["value"])
                table[f"{label}_{name}"] = values.reindex(
                    table.index.get_level_values("layer")
                ).values
        about_row = {
            k: v for k, v in row.items() if k in ("cell_id", "seed", "part", "init", "norm")
        }
        frames.append(table.reset_index().assign(**about_row).astype({"layer_name": str}))
    return pd.concat(frames, ignore_index=True)


def _moments(layers: pd.DataFrame, trained: pd.DataFrame) -> pd.DataFrame:
    """Return the second moment after the ReLU by norm, init, seed and layer, mean over draws."""
    columns = ["norm", "init", "seed", "layer"]
    first_rate = trained[trained["lr"] == trained["lr"].min()]
    rows = _initial(layers, "act_m2").merge(first_rate[["cell_id", "norm", "init", "seed"]])
    if rows.empty:
        return pd.DataFrame({"norm": [""], "init": [""], "seed": [0], "layer": [0], "value": [1.0]})
    return rows.groupby(columns, observed=True)["value"].mean().reset_index()


def _dead_by_layer(layers: pd.DataFrame, about: pd.DataFrame) -> pd.DataFrame:
    """Return the share of dead channels by depth, seed and layer, mean over draws."""
    he = about[(about["init"] == "He")][["cell_id", "depth", "seed"]]
    rows = _initial(layers, "dead_fraction").merge(he, on="cell_id")
    return rows.groupby(["depth", "seed", "layer"])["value"].mean().reset_index()
