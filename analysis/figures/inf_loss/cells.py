"""Tables of the sweep `inf_loss`: which losses are inf or NaN, and what theory predicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.inf_loss.overflow import OverflowPredictor, first_bad_layers
from analysis.figures.query import initial_sharpness, select
from analysis.load import Results
from fanin.errors import FaninError

SETTINGS, LOSSES, CLIPPING, MISSING = "settings", "losses", "clipping", "missing values"
FEATURES, ONSET, EQUAL_UNITS = "features", "onset of divergence", "equal units"
ZERO_IMAGE, INITS = "zero image", "inits"
LOG_MIN, LOG_MAX = -38.0, 38.5  # log10 of the smallest normal and of the largest float32
INIT_NAMES = {
    "normal": "N(0, 1)",
    "uniform": "U(0, 1)",
    "he_normal": "He",
    "xavier_normal": "Xavier",
    "pytorch_default": "PyTorch default",
    "constant": "constant",
}
INPUT_NAMES = {"standardize": "standardized", "signed": "−1 to 1", "raw": "raw"}


def part(cell: Mapping[str, Any]) -> str:
    """Return the part of conf/sweep/inf_loss.yaml that has this cell."""
    width, steps = cell.get("model.width"), cell["train.steps"]
    tests = {
        ONSET: cell["data"] == "features" and steps == 400,
        FEATURES: cell["data"] == "features",
        ZERO_IMAGE: cell["scaling.scale"] == 0,
        MISSING: cell["data.corrupt.share"] > 0,
        EQUAL_UNITS: width == 32,
        INITS: width == 64,
        LOSSES: steps == 1,
        CLIPPING: steps == 10,
    }
    return next((name for name, holds in tests.items() if holds), SETTINGS)


def init_name(cell: Mapping[str, Any]) -> str:
    """Return the label of a cell's init."""
    if cell["init"] == "uniform" and cell["init.a"] < 0:
        return f"U({cell['init.a']:g}, {cell['init.b']:g})"
    return INIT_NAMES[str(cell["init"])]


def input_name(cell: Mapping[str, Any]) -> str:
    """Return the range of a cell's input values."""
    scale = float(cell["scaling.scale"])
    if cell["scaling"] == "unit":
        return f"0 to {scale:g}" if scale < 1e4 else "0 to 1e6"
    return INPUT_NAMES[str(cell["scaling"])]


def bad_steps(cells: pd.DataFrame) -> pd.Series:
    """Return the first step at which the loss is inf or NaN; NaN if it stays finite.

    If a gradient or a weight overflows, the loss of that step is finite and the next is not.
    """
    tensor = cells["outcome_tensor"].astype(object).fillna("").astype(str)
    after_loss = tensor.str.startswith("grad of ") | tensor.str.contains(".", regex=False)
    step = pd.to_numeric(cells["outcome_step"]).astype(float) + after_loss
    return step.where((cells["outcome"] == "diverged").to_numpy())


def summarize(results: Results) -> dict[str, pd.DataFrame]:
    """Return the first bad loss of each network, with what theory predicts.

    Outcomes: `bad_first` and `bad` (1 if the first, or any, loss is inf or NaN); `is_nan` (1 if
    the first bad loss is NaN; of networks with missing values or a squared error); `error` (test
    error); `log_last` (log10 of the last layer's root mean square before training); `spread` (of
    the units of a layer); `first_rms` (root mean square of the first layer on a zero image);
    `first_layer` (first layer that overflows; NaN: none).
    """
    if results.cells.empty or results.layers.empty:
        raise FaninError(f"{results.folder.root}: no network has run yet; run the sweep")
    cells, layers = results.cells, results.layers
    records = [{str(k): v for k, v in row.items()} for row in cells.to_dict("records")]
    ids = cells["cell_id"].astype(str)
    steps = bad_steps(cells)
    bad = steps.notna().astype(float)
    parts = pd.Series([part(record) for record in records], cells.index)
    sharpness = initial_sharpness(layers)
    reason = cells["outcome_reason"].astype(object).fillna("").astype(str)
    overflows = first_bad_layers(layers).groupby("cell_id").min()
    table = pd.DataFrame(
        {
            "seed": cells["seed"].astype(int),
            "part": parts,
            "init": [init_name(record) for record in records],
            "inputs": [input_name(record) for record in records],
            "activation": cells["activation"].astype(str),
            "depth": cells["model.depth"].astype(int),
            "dtype": cells["train.dtype"].astype(str),
            "loss": cells["loss"].astype(str),
            "form": cells["loss.form"].astype(str),
            "clip": cells["clip"].astype(str),
            "lr": cells["optim.lr"].astype(float),
            "spread_of_features": _column(cells, "data.spread"),
            "zero_biases": _column(cells, "init.bias") == 0,
            "lr_times_curvature": cells["optim.lr"].astype(float) * ids.map(sharpness),
            "bad_step": steps,
            "bad_first": (steps == 0).astype(float),
            "bad": bad,
            "is_nan": reason.str.contains("nan", case=False)
            .astype(float)
            .where((parts == MISSING) | ((parts == LOSSES) & (cells["loss"].astype(str) == "mse"))),
            "error": (1 - cells["test_accuracy"].astype(float)).fillna(1.0),
            "log_last": ids.map(_log_last(layers)).where(parts == SETTINGS),
            "spread": ids.map(_spread(layers)).where(parts == EQUAL_UNITS),
            "first_rms": ids.map(_first_rms(layers)).where(parts == ZERO_IMAGE),
            "first_layer": ids.map(overflows).where(parts == SETTINGS),
        }
    )
    table["error"] = table["error"].where(parts == INITS)
    predicted = _predictions(results, ids.where(parts == SETTINGS))
    return {"cells": pd.concat([table, predicted], axis=1).reset_index(drop=True)}


def _column(cells: pd.DataFrame, name: str) -> pd.Series:
    if name not in cells:
        return pd.Series(np.nan, index=cells.index)
    return pd.to_numeric(cells[name], errors="coerce").astype(float)


def _predictions(results: Results, ids: pd.Series) -> pd.DataFrame:
    """Predict for each cell whether its first loss is bad, and its first overflowing layer."""
    predictor, plan = OverflowPredictor(), results.plan
    rows = []
    for cell_id in ids:
        if pd.isna(cell_id):
            rows.append((np.nan, np.nan))
            continue
        prediction = predictor.predict(plan[cell_id]["config"])
        layer = np.nan if prediction.layer is None else float(prediction.layer)
        rows.append((float(not prediction.is_finite), layer))
    return pd.DataFrame(rows, ids.index, ["bad_predicted", "layer_predicted"])


def _log_last(layers: pd.DataFrame) -> pd.Series:
    rows = select(layers, quantity="preact_m2", image=-1, step=0, draw=0)
    last = rows.sort_values("layer").groupby(rows["cell_id"].astype(str))["value"].last()
    log = np.log10(last.fillna(np.inf).clip(lower=1e-300)) / 2
    return log.clip(LOG_MIN, LOG_MAX)


def _first_rms(layers: pd.DataFrame) -> pd.Series:
    rows = select(layers, quantity="preact_m2", image=-1, step=0, draw=0, layer=1)
    return pd.Series(np.sqrt(rows["value"].to_numpy()), rows["cell_id"].astype(str))


def _spread(layers: pd.DataFrame) -> pd.Series:
    """Return the units' standard deviation over their root mean square after training, by cell.

    It is the largest over hidden layers and probe images; 0 if all pre-activations are 0.
    """
    rows = layers[(layers["layer"] > 0) & (layers["image"] >= 0) & (layers["step"] > 0)]
    rows = rows[rows["quantity"].isin(["preact_m2", "preact_var"])]
    if rows.empty:
        return pd.Series(dtype=float)
    last = rows.groupby(rows["cell_id"].astype(str))["layer"].transform("max")
    wide = rows[rows["layer"] < last].pivot_table(
        index=["cell_id", "step", "layer", "image"], columns="quantity", values="value",
        observed=True,
    )  # fmt: skip
    ratio = np.sqrt(wide["preact_var"] / wide["preact_m2"].where(wide["preact_m2"] > 0, np.inf))
    ratio.index = ratio.index.get_level_values("cell_id").astype(str)
    return ratio.groupby(level=0).max()
