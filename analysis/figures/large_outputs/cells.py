"""Tables of the sweep `large_outputs`: cause, remedy, size of the outputs and accuracy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.query import select
from analysis.load import Results
from analysis.predictions import predict_cell
from analysis.scoring.summary import CELLS
from experiments.config.groups import PREDICTION_GROUPS
from fanin.errors import FaninError

LARGEST = 38.5  # log10 of the largest float32, the size of a network that diverges
BASE_RATE, LARGE_RATE = 0.05, 2.0
HEALTHY_FACTOR = 3.0  # outputs this much larger than the healthy network's still count as healthy
HEALTHY, NOTHING, LOWER_RATE = "healthy network", "nothing", "lower rate"
REGRESSION, SAME_CLASSES = "regression, squared error", "same images, classes"
LARGE_STEPS = ("learning rate 40 times larger", "gradients times 3 per layer")
LARGE_START = ("N(0, 1) weights", "U(0, 1) weights", "pixels 0 to 255")
CAUSES = (*LARGE_START, *LARGE_STEPS, REGRESSION)
OTHER_SUSPECTS = (
    *("PyTorch's default init", "float16", "log(softmax) written out"),
    *("squared error on classes", "softmax applied twice"),
)
ACTIVATION, NORM_CLIP, VALUE_CLIP = "final activation", "clip norm", "clip value"
XAVIER = "Xavier init"
SCHEDULES = ("step schedule", "warmup", "cosine schedule")
REMEDIES = (NOTHING, ACTIVATION, XAVIER, NORM_CLIP, VALUE_CLIP, LOWER_RATE, *SCHEDULES)


def cause(cell: Mapping[str, Any]) -> str:
    """Return the cause that a cell's config contains."""
    inits = {"normal": "N(0, 1) weights", "uniform": "U(0, 1) weights"}
    factor = cell.get("clip.factors.conv1")
    if cell["data"] == "gaussian":
        return REGRESSION if cell["data.task"] == "regression" else SAME_CLASSES
    tests = {
        inits.get(cell["init"], ""): cell["init"] in inits,
        "pixels 0 to 255": cell["scaling"] == "raw",
        LARGE_STEPS[0]: cell["optim.lr"] > BASE_RATE,
        LARGE_STEPS[1]: factor is not None and factor > 1,
        OTHER_SUSPECTS[0]: cell["init"] == "pytorch_default",
        OTHER_SUSPECTS[1]: cell["train.dtype"] == "float16",
        OTHER_SUSPECTS[2]: cell["loss.form"] == "naive",
        OTHER_SUSPECTS[3]: cell["loss"] == "mse",
        OTHER_SUSPECTS[4]: cell["loss.form"] == "twice",
    }
    return _only([name for name, holds in tests.items() if holds], HEALTHY, cell)


def remedy(cell: Mapping[str, Any]) -> str:
    """Return the remedy that a cell's config contains."""
    schedules = dict(zip(("step", "warmup", "cosine"), SCHEDULES, strict=True))
    clips = {"norm": NORM_CLIP, "value": VALUE_CLIP}
    tests = {
        ACTIVATION: cell["head"] != "none" and cell["loss.form"] != "twice",
        XAVIER: cell["init"] == "xavier_normal",
        clips.get(cell["clip"], ""): cell["clip"] in clips,
        LOWER_RATE: cell["optim.lr"] not in (BASE_RATE, LARGE_RATE),
        schedules.get(cell["schedule"], ""): cell["schedule"] in schedules,
    }
    return _only([name for name, holds in tests.items() if holds], NOTHING, cell)


def _only(names: Sequence[str], default: str, cell: Mapping[str, Any]) -> str:
    if len(names) > 1:
        raise FaninError(f"{cell['cell_id']}: more than one of: {', '.join(names)}")
    return names[0] if names else default


def summarize(results: Results) -> dict[str, pd.DataFrame]:
    """Return size and accuracy of each network, and its measured and predicted size at the start.

    Columns: `log_start` (mean over draws) and `log_start_predicted` of networks without a remedy;
    `log_size` (largest over all probed steps); `accuracy` (or share of the variance that a
    regression explains; 0 if it diverged). Sizes are log10 of the root mean square of the logits.
    """
    if results.cells.empty or results.layers.empty:
        raise FaninError(f"{results.folder.root}: no network has been trained yet; run the sweep")
    cells = results.cells
    records = [{str(k): v for k, v in row.items()} for row in cells.to_dict("records")]
    ids = cells["cell_id"].astype(str)
    diverged = (cells["outcome"] == "diverged").to_numpy()
    by_draw = _log_sizes(results.layers, select(results.layers, step=0))
    trained = _log_sizes(results.layers, select(results.layers, draw=0))
    noise = cells["data.noise"].astype(float) if "data.noise" in cells else 0.0
    explained = 1 - cells["test_loss"].astype(float) / (1 + noise**2)
    accuracy = cells["test_accuracy"].astype(float).fillna(explained)
    table = pd.DataFrame(
        {
            "seed": cells["seed"].astype(int),
            "cause": [cause(record) for record in records],
            "remedy": [remedy(record) for record in records],
            "lr": cells["optim.lr"].astype(float),
            "log_size": np.where(diverged, LARGEST, ids.map(trained.groupby("cell_id").max())),
            "accuracy": np.where(diverged, 0.0, accuracy.clip(lower=0)),
        }
    )
    alone = (table["remedy"] == NOTHING).to_numpy()
    start = ids.map(by_draw.groupby("cell_id").mean())
    table["log_start"] = start.where(alone)
    table["log_start_predicted"] = _predicted_starts(results, ids.where(alone))
    draws = by_draw.reset_index().merge(
        pd.DataFrame({"cell_id": ids, "cause": table["cause"], "alone": alone}), on="cell_id"
    )
    columns = ["train.steps", "probe.draws"]
    setting = cells[columns].iloc[:1].astype(float).reset_index(drop=True)
    return {
        CELLS: table.reset_index(drop=True),
        "draws": draws.loc[draws["alone"], ["cause", "log_size"]].reset_index(drop=True),
        "setting": setting,
    }


def _log_sizes(layers: pd.DataFrame, rows: pd.DataFrame) -> pd.Series:
    """Return log10 of the root mean square of the logits, by cell, draw and step."""
    logits = select(rows, quantity="preact_m2", image=-1, layer=int(layers["layer"].max()))
    values = logits["value"].clip(lower=1e-76).map(np.log10).clip(upper=2 * LARGEST) / 2
    keys = [logits["cell_id"].astype(str), logits["draw"], logits["step"]]
    return values.groupby(keys).first().rename("log_size")


def _predicted_starts(results: Results, ids: pd.Series) -> list[float]:
    """Predict log10 of the root mean square of the logits; cells with equal networks share it."""
    cache: dict[str, float] = {}
    plan, predictions = results.plan, []
    for cell_id in ids:
        if pd.isna(cell_id):
            predictions.append(np.nan)
            continue
        config = plan[cell_id]["config"]
        config = {**config, "train": {**config["train"], "dtype": "float32"}}
        key = json.dumps({group: config[group] for group in PREDICTION_GROUPS}, sort_keys=True)
        if key not in cache:
            frame = predict_cell(config, ("field",), whole_set=True)
            last = select(frame, quantity="preact_m2", image=-1, layer=int(frame["layer"].max()))
            cache[key] = float(np.log10(last["value"].iloc[0])) / 2
        predictions.append(cache[key])
    return predictions
