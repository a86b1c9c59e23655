"""Common claims on biases, inits, symmetric units and missing values, tested."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from analysis.figures.inf_loss.parts import part_cells, share
from analysis.figures.query import select
from analysis.figures.study import NO_THRESHOLD, ClaimResult
from analysis.load import Results
from analysis.predictions import predict_cell
from experiments.inputs import prepared
from experiments.schema import build_cell
from experiments.training.loader import BatchOrder

NAMES = {"he_normal": "He", "xavier_normal": "Xavier", "pytorch_default": "PyTorch default"}
PARTNERS = {"relu": ("he_normal", "xavier_normal"), "tanh": ("xavier_normal", "he_normal")}
STARTS = {
    "zeros": "zero weights and biases",
    "zeros, biases": "zero weights, random biases",
    "constant": "all weights the same number",
    "he_normal": "He, for comparison",
}


def bias_claims(results: Results, criterion: Mapping[str, Any]) -> Iterator[ClaimResult]:
    """Test that E[y^2] of the first layer on a zero image is the mean square of its biases."""
    cells, plan = part_cells(results, "zero image"), results.plan
    key = {"quantity": "preact_m2", "image": -1, "layer": 1}
    first = select(results.layers, **key)
    for _, cell in cells.iterrows():
        values = first.loc[first["cell_id"].astype(str) == str(cell["cell_id"]), "value"]
        config = plan[str(cell["cell_id"])]["config"]
        prediction = predict_cell(config, ("mean_field",), whole_set=True)
        expected = float(select(prediction, **key)["value"].iloc[0])
        mean, error = float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)
        is_default = pd.isna(cell["init.bias"]) if "init.bias" in cell.index else True
        name = f"{cell['model']}: E[y^2] of the first layer on a zero image, {len(values)} draws"
        if is_default:
            yield ClaimResult(
                f"{name}, PyTorch's default biases",
                f"{expected:.3g}: biases are U(-1, 1) / sqrt(fan_in), not 0",
                f"{mean:.3g} (se {error:.1g})",
                bool(abs(mean - expected) <= criterion["bias_se"] * error) and mean > 0,
                threshold=f"within {criterion['bias_se']:g} se, and above 0",
            )
        else:
            yield ClaimResult(
                f"{name}, biases set to 0", "0", f"{mean:g}", mean == 0, threshold="exactly 0"
            )


def init_claims(results: Results, criterion: Mapping[str, Any]) -> Iterator[ClaimResult]:
    """Compare He and Xavier with ReLU and tanh: best accuracy and moments by layer."""
    cells = part_cells(results, "inits")
    cells = cells.assign(
        init=cells["init"].astype(str),
        activation=cells["activation"].astype(str),
        accuracy=cells["test_accuracy"].fillna(0.0),  # NaN if the cell diverged
    )
    by_rate = cells.groupby(["activation", "init", "optim.lr"])["accuracy"].mean()
    best = by_rate.groupby(["activation", "init"]).max()
    seeds, depth = cells["seed"].nunique(), int(cells["model.depth"].iloc[0])
    for activation, (partner, other) in PARTNERS.items():
        if activation not in best.index:
            continue
        accuracy = best[activation]
        difference = float(accuracy[partner] - accuracy[other])
        yield ClaimResult(
            f"{activation}, depth {depth}: test accuracy at the best learning rate, mean over "
            f"{seeds} seeds",
            f"{NAMES[partner]} better than {NAMES[other]} (common claim), by at least "
            f"{criterion['accuracy']:g}",
            ", ".join(f"{name} {accuracy[init]:.2f}" for init, name in NAMES.items()),
            difference >= float(criterion["accuracy"]),
            threshold=f"difference at least {criterion['accuracy']:g}",
        )
    yield from _moments(results, cells)


def _moments(results: Results, cells: pd.DataFrame) -> Iterator[ClaimResult]:
    depth = int(cells["model.depth"].iloc[0])
    configs = cells[["cell_id", "activation", "init"]]
    layers = select(results.layers, image=-1, step=0).merge(configs, on="cell_id")
    for activation in cells["activation"].unique():
        parts = []
        for init, name in NAMES.items():
            rows = select(layers, activation=activation, init=init)
            forward = _ratio(rows, "preact_m2", depth - 1, 1)
            backward = _ratio(rows, "vjp_m2", 1, depth - 1)
            parts.append(f"{name} {forward:.1g} and {backward:.1g}")
        yield ClaimResult(
            f"{activation}, depth {depth}: E[y^2], last hidden layer / first layer; and second "
            "moment of the cotangent, first layer / last hidden layer",
            "no claim",
            "; ".join(parts),
            None,
        )


def _ratio(layers: pd.DataFrame, quantity: str, layer: int, over: int) -> float:
    """Return the geometric mean over draws of one layer's moment divided by another's."""
    keys = ["cell_id", "draw"]
    numerator = select(layers, quantity=quantity, layer=layer).set_index(keys)["value"]
    denominator = select(layers, quantity=quantity, layer=over).set_index(keys)["value"]
    with np.errstate(divide="ignore"):
        return float(np.exp(np.log(numerator / denominator).mean()))


def unit_spreads(results: Results) -> pd.DataFrame:
    """Measure how much the units of a hidden layer differ after training, for each cell.

    Returns
    -------
    pandas.DataFrame
        `start` (init), `activation`; `spread`: standard deviation of the pre-activations over the
        units / their root mean square, largest over hidden layers and probe images (0 if all
        pre-activations are 0); `weights_zero`: True if all weights are 0; `accuracy`, `steps`.
    """
    cells, layers = part_cells(results, "symmetry"), results.layers
    rows = []
    for _, cell in cells.iterrows():
        steps = int(cell["train.steps"])
        own = layers[layers["cell_id"].astype(str) == str(cell["cell_id"])]
        after = own[own["step"] == steps]
        hidden = (after["layer"] > 0) & (after["layer"] < cell["model.depth"])
        wide = after[hidden & (after["image"] >= 0)].pivot_table(
            index=["layer", "image"], columns="quantity", values="value", observed=True
        )
        # Per image, so that differences between images do not count.
        ratio = np.sqrt(wide["preact_var"] / wide["preact_m2"].where(wide["preact_m2"] > 0, np.inf))
        weights = after[after["quantity"] == "weight_m2"].set_index("layer")["value"]
        rows.append(
            {
                "start": _start(cell),
                "activation": str(cell["activation"]),
                "spread": float(ratio.max()),
                "weights_zero": bool((weights == 0).all()),
                "accuracy": float(cell["test_accuracy"]),
                "steps": steps,
            }
        )
    return pd.DataFrame(rows)


def _start(cell: pd.Series) -> str:
    init = str(cell["init"])
    has_biases = "init.bias.std" in cell.index and cell["init.bias.std"] > 0
    return f"{init}, biases" if init == "zeros" and has_biases else init


def symmetry_claims(spreads: pd.DataFrame, criterion: Mapping[str, Any]) -> Iterator[ClaimResult]:
    """Test from which inits the units of a layer stay equal.

    Parameters
    ----------
    spreads
        Table of `unit_spreads`.
    criterion
        `equal_units`: the spread below which units count as equal.
    """
    max_spread = float(criterion["equal_units"])
    for start, label in STARTS.items():
        rows = spreads[spreads["start"] == start]
        if rows.empty:
            continue
        equal = rows["spread"] < max_spread
        claimed, holds = {
            "zeros": ("0: the units stay equal (common claim on any zero init)", bool(equal.all())),
            "zeros, biases": ("above 0, because the biases differ", not equal.any()),
            "constant": ("0: the units stay equal", bool(equal.all())),
        }.get(start, ("no claim", None))
        yield ClaimResult(
            f"{label}: pre-activations of a hidden layer after {int(rows['steps'].iloc[0])} steps, "
            "standard deviation over its units / root mean square",
            claimed,
            _by_activation(rows, "spread", ".1g"),
            holds,
            threshold=_spread_threshold(start, max_spread),
        )
    zeros = spreads[spreads["start"] == "zeros"]
    for activation, expected in (("relu", True), ("tanh", True), ("sigmoid", False)):
        rows = zeros[zeros["activation"] == activation]
        if rows.empty:
            continue
        yield ClaimResult(
            f"zero weights and biases, {activation}: are all weights 0 after training?",
            "yes: only the last layer's bias changes" if expected else "no: sigmoid(0) is 1/2",
            "yes" if bool(rows["weights_zero"].all()) else "no",
            bool(rows["weights_zero"].all()) == expected,
            threshold="exactly 0" if expected else "not 0",
        )
    yield ClaimResult(
        "test accuracy after training from each of these inits",
        "no claim",
        "; ".join(
            f"{label}: {_by_activation(spreads[spreads['start'] == start], 'accuracy', '.2f')}"
            for start, label in STARTS.items()
            if (spreads["start"] == start).any()
        ),
        None,
    )


def _spread_threshold(start: str, max_spread: float) -> str:
    if start not in ("zeros", "zeros, biases", "constant"):
        return NO_THRESHOLD
    return f"{'at least' if start == 'zeros, biases' else 'below'} {max_spread:g}"


def _by_activation(rows: pd.DataFrame, column: str, number_format: str) -> str:
    pairs = zip(rows["activation"], rows[column], strict=True)
    return ", ".join(f"{value:{number_format}} ({name})" for name, value in pairs)


def first_nan_step(config: Mapping[str, Any]) -> int | None:
    """Predict the first step whose batch contains a NaN, from the order of the batches."""
    cell = build_cell(config)
    data, scaling = prepared(cell, torch.device("cpu"))
    has_nan = ~scaling.apply(data.train.x).isfinite().flatten(1).all(1)
    size = cell.train.batch_of(len(data.train))
    batches = BatchOrder(len(data.train), size, cell.seed_data)
    steps = range(cell.train.total_steps(len(data.train)))
    return next((step for step in steps if bool(has_nan[batches.at(step)].any())), None)


def bad_data_claims(results: Results) -> Iterator[ClaimResult]:
    """Test the prediction of the first NaN loss with missing values; count failures by outliers."""
    cells, plan = part_cells(results, "bad data"), results.plan
    unclipped = cells[cells["clip"].astype(str) == "none"]
    for scaling in unclipped["scaling"].astype(str).unique():
        rows = unclipped[unclipped["scaling"].astype(str) == scaling]
        missing = rows[rows["data.corrupt.kind"].astype(str) == "missing"]
        predicted = [first_nan_step(plan[str(cell)]["config"]) for cell in missing["cell_id"]]
        steps = missing["bad_step"].tolist()
        agree = [
            p == s or (p is None and np.isnan(s)) for p, s in zip(predicted, steps, strict=True)
        ]
        reason = {
            "standardize": "the mean is NaN, and so is every image",
            "unit": "the first step whose batch has a missing value",
        }.get(scaling, "")
        yield ClaimResult(
            f"missing values, scaling={scaling}: step of the first NaN loss, by cell",
            f"{', '.join(map(str, predicted))}: {reason}",
            ", ".join("never" if np.isnan(s) else f"{s:.0f}" for s in steps),
            all(agree) if agree else None,
            threshold="equal in every cell",
        )
        outliers = rows[rows["data.corrupt.kind"].astype(str) == "outlier"]
        bad = int(outliers["bad_step"].notna().sum())
        yield ClaimResult(
            f"some images multiplied by 100, scaling={scaling}: cells with an inf or NaN loss",
            "no claim",
            share(bad, len(outliers)),
            None,
        )
