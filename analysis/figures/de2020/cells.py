"""Tables of the sweep `de2020`: gradients and residual streams by layer, and training losses."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.query import select
from analysis.figures.training_runs import training_outcomes
from analysis.load import Results
from analysis.predictions import predict_cell
from experiments.config.groups import PREDICTION_GROUPS
from fanin.errors import FaninError

GRADIENTS, STREAM, TRAINING = "gradients", "stream", "training"  # parts of the sweep
DENSE, CONV, RESIDUAL = "mlp", "plain", "resnet"  # models
NORMALIZED, UNNORMALIZED = "batch", "none"
UNSCALED, SKIPINIT, FIXUP = "he_normal", "skipinit", "fixup"
N_STAGES = 3
QUANTITY = {GRADIENTS: "vjp_m2", STREAM: "preact_m2"}
DESIGN = {"seed": "seed", "depth": "model.depth", "init": "init", "lr": "optim.lr"}
SETTING = ("data.side", "model.width", "model.depth", "probe.size", "probe.draws", "train.steps")


def summarize(results: Results) -> dict[str, pd.DataFrame]:
    """Return the tables of the study.

    `cells` has a row per layer (`gradients`: log2 of the mean square gradient, `log_gradient`) or
    block (`stream`: mean square of the residual stream, `stream`) of a network at initialization,
    each with theory's prediction, and a row per trained network (`training`: final `loss` divided
    by chance). `curves` has the losses by step.
    """
    if results.layers.empty:
        raise FaninError(f"{results.folder.root}: no layer has been measured yet; run the sweep")
    cells = results.cells
    parts = cells["model"].astype(str).map({DENSE: GRADIENTS, CONV: GRADIENTS, RESIDUAL: STREAM})
    parts = parts.where(cells["train.steps"] == 0, TRAINING)
    measured = pd.concat([_by_layer(results, parts, part) for part in QUANTITY], ignore_index=True)
    outcomes, curves = _training(results, parts)
    outcomes = outcomes.assign(part=TRAINING, model=RESIDUAL, norm=UNNORMALIZED, layer=0)
    table = pd.concat([measured, outcomes], ignore_index=True)
    # Null models with a trend need a value in every row.
    table = table.fillna({"lr": 0.0, "init": UNSCALED})
    setting = cells.assign(part=parts).groupby(["part", "model"], observed=True)[[*SETTING]].first()
    return {
        "cells": table,
        "curves": curves,
        "setting": setting.astype(float).reset_index().astype({"part": str, "model": str}),
    }


def _training(results: Results, parts: pd.Series) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the training outcomes and curves of the trained networks."""
    outcomes, curves = training_outcomes(results, {**DESIGN, "steps": "train.steps"})
    trained = (parts == TRAINING).to_numpy()
    return (
        outcomes[trained].drop(columns=["steps", "mean_loss"]).reset_index(drop=True),
        curves[curves["steps"] > 0].drop(columns="steps").reset_index(drop=True),
    )


def _by_layer(results: Results, parts: pd.Series, part: str) -> pd.DataFrame:
    """Return the measured and predicted values by layer or block of the networks of a part."""
    cache: dict[str, pd.Series] = {}
    layers = results.layers
    frames = []
    for row in results.cells[(parts == part).to_numpy()].to_dict("records"):
        config = results.plan[str(row["cell_id"])]["config"]
        key = json.dumps({group: config[group] for group in PREDICTION_GROUPS}, sort_keys=True)
        if key not in cache:
            cache[key] = _means(predict_cell(config, ("field",), whole_set=True), part)
        own = layers[(layers["cell_id"] == row["cell_id"]) & (layers["step"] == 0)]
        values = pd.DataFrame({"measured": _means(own, part), "predicted": cache[key]})
        about: dict[str, Any] = {
            "part": part,
            "model": str(row["model"]),
            "norm": str(row["model.norm"]),
            "depth": int(row["model.depth"]),
            "seed": int(row["seed"]),
        }
        frames.append(_numbered(values, part).assign(**about))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _means(table: pd.DataFrame, part: str) -> pd.Series:
    """Return the mean over draws and images of a part's quantity, by name of the layer."""
    rows = select(table, quantity=QUANTITY[part], image=-1)
    rows = rows[rows["layer"] > 0].assign(layer_name=lambda frame: frame["layer_name"].astype(str))
    return rows.groupby("layer_name", sort=False)["value"].mean()


def _numbered(values: pd.DataFrame, part: str) -> pd.DataFrame:
    """Keep the hidden layers but the first, or the sums of the blocks, and number them.

    The first layer reads the images, whose variance differs from that of normalized layers.
    """
    if part == GRADIENTS:
        values = values.assign(layer=np.arange(1, len(values) + 1)).iloc[1:-1]
        return pd.DataFrame(
            {
                "layer": values["layer"],
                "log_gradient": np.log2(values["measured"]),
                "log_gradient_predicted": np.log2(values["predicted"]),
            }
        )
    sums = values[values.index.str.fullmatch(r"block\d+\.add")]
    blocks = np.arange(1, len(sums) + 1)
    return pd.DataFrame(
        {
            "layer": blocks,
            "stage": 1 + (blocks - 1) // (len(sums) // N_STAGES),
            "stream": sums["measured"],
            "stream_predicted": sums["predicted"],
        }
    )
