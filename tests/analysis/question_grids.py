"""The design of each question's own grid, with outcomes as its claims say: records for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from grids import design, noise


def _records(sweep: str) -> list[dict[str, Any]]:
    cells = design(sweep)
    return [{"cell_id": str(n), **row} for n, row in enumerate(cells.to_dict("records"))]


def large_outputs() -> pd.DataFrame:
    from analysis.figures.large_outputs import cells as study

    rows = _records("large_outputs")
    table = pd.DataFrame(
        {
            "seed": [row["seed"] for row in rows],
            "cause": [study.cause(row) for row in rows],
            "remedy": [study.remedy(row) for row in rows],
            "lr": [row["optim.lr"] for row in rows],
        }
    )
    start = table["cause"].isin(study.LARGE_START)
    steps = table["cause"].isin([*study.LARGE_STEPS, study.REGRESSION])
    cured = table["remedy"].isin([study.NORM_CLIP, study.VALUE_CLIP, study.LOWER_RATE])
    cured |= (table["cause"] == study.REGRESSION) & (table["remedy"] == study.XAVIER)
    log_size = np.where(start, 10.0, np.where(steps & ~cured, study.LARGEST, 0.5))
    table["log_size"] = log_size + noise(len(table), 0.05)
    alone = table["remedy"] == study.NOTHING
    predicted = table["cause"].map(dict(zip(study.LARGE_START, (5.0, 9.0, 2.0), strict=True)))
    table["log_start_predicted"] = predicted.fillna(0.0).where(alone)
    table["log_start"] = table["log_start_predicted"] + noise(len(table), 0.1)
    return table.assign(accuracy=np.where(table["log_size"] < 1, 0.9, 0.1))


def dying_relu() -> pd.DataFrame:
    from analysis.figures.dying_relu import cells as study

    rows = _records("dying_relu")
    table = pd.DataFrame(
        {
            "seed": [row["seed"] for row in rows],
            "kind": [study._kind({"probe.tensors": "", **row}) for row in rows],
            "network": [study.network(row) for row in rows],
            "inputs": [study.INPUTS[row["scaling"]] for row in rows],
            "side": [row["data.side"] for row in rows],
            "lr": [row["optim.lr"] for row in rows],
            "steps": [row["train.steps"] for row in rows],
        }
    )
    trained = table[table["kind"] == study.TRAINING]
    early = [trained.assign(steps=steps) for steps in study.EARLY]
    table = pd.concat([table, *early], ignore_index=True)
    first = table["kind"] == study.FIRST_STEP
    table["rate_predicted"] = (2.0 / table["side"] ** 2).where(first)
    killing = 2.0 / table["side"] ** 2 * np.exp(0.1 * (table["seed"] - 13))
    table["dead"] = (table["lr"] > killing).astype(float)
    works = {
        **dict.fromkeys((study.FILTER_RATE, study.OWN_BIAS_FILTER_RATE), (1e-3, 1.5)),
        **{study.COMBINED: (0.1, 1.5), study.OWN_BIAS: (1.5e-3, 0.2)},
        **{study.RECIPE: (1e-2, 1.5), study.RECIPE_1: (1e-2, 0.5)},
    }  # learning rate, and the powers of 10 around it that work, too
    rate, width = (
        table["network"].map({name: value[i] for name, value in works.items()}) for i in (0, 1)
    )
    works_at = np.abs(np.log10(table["lr"] / rate)) < width
    own_bias = table["network"] == study.OWN_BIAS
    fails = own_bias & (table["steps"].isin(study.EARLY) | (table["inputs"] == study.RAW))
    correct = (works_at & ~fails).astype(float)
    return table.assign(correct=correct, dead_at_end=table["dead"])


def inf_loss() -> pd.DataFrame:
    from analysis.figures.inf_loss import cells as study

    rows = _records("inf_loss")
    cells = pd.DataFrame(rows)
    table = pd.DataFrame(
        {
            "seed": cells["seed"],
            "part": [study.part(row) for row in rows],
            "init": [study.init_name(row) for row in rows],
            "inputs": [study.input_name(row) for row in rows],
            "activation": cells["activation"],
            "depth": cells["model.depth"],
            "dtype": cells["train.dtype"],
            "loss": cells["loss"],
            "form": cells["loss.form"],
            "clip": cells["clip"],
            "lr": cells["optim.lr"],
            "spread_of_features": cells["data.spread"],
            "zero_biases": pd.to_numeric(cells["init.bias"], errors="coerce") == 0,
        }
    )
    settings = table["part"] == study.SETTINGS
    regression = table["part"].isin([study.FEATURES, study.ONSET])
    large = table["init"].isin(["N(0, 1)", "U(0, 1)"]) & (table["depth"] == 48)
    large &= table["activation"] == "relu"
    half = table["dtype"] == "float16"
    first = settings & (large | (half & (table["inputs"] == "0 to 1e6")))
    bad = first | (settings & (table["inputs"] == "0 to 1e6"))
    bad |= settings & half & (table["inputs"] == "0 to 255")
    table["bad_predicted"] = first.astype(float).where(settings)
    naive = (table["part"] == study.LOSSES) & (table["form"] == "naive")
    clipped = (table["part"] == study.CLIPPING) & (
        (table["depth"] == 48) | (table["clip"] == "none")
    )
    missing = table["part"] == study.MISSING
    curvature = np.where(table["activation"] == "relu", 1e6, 1e3)
    curvature = np.where(table["inputs"] == "raw", curvature, 8.0) * (1 + 0.01 * table["seed"])
    table["lr_times_curvature"] = curvature * table["lr"].where(regression)
    diverges = table["lr_times_curvature"] > 4
    table["bad_first"] = (first | naive).astype(float)
    table["bad"] = (bad | naive | clipped | missing | diverges).astype(float)
    mse = (table["part"] == study.LOSSES) & (table["loss"] == "mse")
    table["is_nan"] = missing.astype(float).where(missing | mse)
    inits = table["part"] == study.INITS
    best = {"relu": "He", "tanh": "Xavier", "sigmoid": "Xavier"}
    error = np.where(table["init"] == table["activation"].map(best), 0.1, 0.4)
    error = error + 0.05 * np.abs(np.log10(table["lr"] / 0.1)) + noise(len(table), 0.01)
    table["error"] = pd.Series(error).where(inits)
    change = table["init"].map({"N(0, 1)": 38.0, "U(-0.01, 0.01)": -38.0}).fillna(0.0)
    table["log_last"] = (change + noise(len(table), 0.1)).where(settings)
    equal_units, zero_image = (
        table["part"] == name for name in (study.EQUAL_UNITS, study.ZERO_IMAGE)
    )
    spread = np.where(table["init"] == "He", 1.0, 0.0) + noise(len(table), 0.02)
    table["spread"] = pd.Series(spread).where(equal_units)
    rms = np.where(table["zero_biases"], 0.0, 0.07) + noise(len(table), 0.001)
    table["first_rms"] = pd.Series(rms).where(zero_image)
    return table


def alexnet_variance() -> pd.DataFrame:
    from analysis.figures.alexnet_variance import cells as study

    rows = _records("alexnet_variance")
    cells = pd.DataFrame(rows)
    table = pd.DataFrame(
        {
            "seed": cells["seed"],
            "part": [study.part(row) for row in rows],
            "init": [study.init_name(row) for row in rows],
            "norm": [study.norm_name(row) for row in rows],
            "depth": cells["model.depth"].fillna(study.N_LAYERS),
            "lr": cells["optim.lr"],
            "layer": 0,
        }
    )
    by_layer = table[table["part"] == study.FORMULA].drop(columns="layer")
    by_layer = by_layer.merge(pd.DataFrame({"layer": range(1, 9)}), "cross")
    rate = by_layer["init"].map({"He": 0.1, "Xavier": -0.4, "PyTorch default": -0.8}).fillna(-1.5)
    bias = {"PyTorch default": 4.0, "2012": 10.0, study.INIT_2012_FULL: 11.0}
    beyond = by_layer["init"].map(bias).fillna(0.5) * by_layer["layer"] / 8
    for direction in ("forward", "backward"):
        by_layer[f"he_{direction}"] = rate * by_layer["layer"]
        by_layer[f"theory_{direction}"] = by_layer[f"he_{direction}"] + beyond
        by_layer[f"log_{direction}"] = by_layer[f"theory_{direction}"] + noise(len(by_layer), 0.05)
    others = table[table["part"] != study.FORMULA].copy()
    n = len(others)
    normed = others["norm"].isin([study.NORM_NAMES["layer"], study.NORM_NAMES["batch"]])
    means = others["norm"] == study.NORM_NAMES["mean_only"]
    large = others["part"] == study.LARGE_WEIGHTS
    output = np.where(large & ~normed, 8.0 - means, 1.0)
    shape = others["init"].map({"U(-1, 1)": 1.0, "N(0, 0.01²)": -1.0}).fillna(0.0)
    output = np.where(others["part"] == study.DEPTH, shape * others["depth"], output)
    measured = others["part"].isin([study.LARGE_WEIGHTS, study.DEPTH])
    others["log_output"] = pd.Series(output + noise(n, 0.1), others.index).where(measured)
    he = others["init"] == "He"
    others["dead"] = (0.01 * others["depth"] * he + noise(n, 0.01)).where(
        others["part"] == study.DEPTH
    )
    layer_norm = others["norm"] == study.NORM_NAMES["layer"]
    accuracy = np.where(he, 0.7 + 0.1 * means, 0.1 + 0.4 * layer_norm) + noise(n, 0.01)
    trained = others["part"] == study.TRAINING
    others["accuracy"] = pd.Series(accuracy, others.index).where(trained)
    return pd.concat([others, by_layer], ignore_index=True)


RECORDS: dict[str, Callable[[], pd.DataFrame]] = {
    record.__name__: record for record in (large_outputs, dying_relu, inf_loss, alexnet_variance)
}
