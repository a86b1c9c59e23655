"""Claims usually repeated: on biases, inits, units that start equal, and missing values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from analysis.figures.inf_loss.parts import part_cells, share
from analysis.figures.query import select
from analysis.figures.study import ClaimResult
from analysis.load import Results
from analysis.predictions import predict_cell
from experiments.inputs import prepared
from experiments.schema import build_cell
from experiments.sweep.store.plan_file import read_plan
from experiments.training.loader import BatchOrder

NAMES = {"he_normal": "He", "xavier_normal": "Xavier", "pytorch_default": "torch's default"}
PARTNERS = {"relu": ("he_normal", "xavier_normal"), "tanh": ("xavier_normal", "he_normal")}
STARTS = {
    "zeros": "zero weights and biases",
    "zeros, biases": "zero weights, random biases",
    "constant": "all weights the same number",
    "he_normal": "He, for comparison",
}


def bias_claims(results: Results, criterion: Mapping[str, Any]) -> Iterator[ClaimResult]:
    """Test the first layer on a black image: E[y^2] is the mean square of its biases."""
    cells, frozen = part_cells(results, "black"), read_plan(results.folder)
    of = {"quantity": "preact_m2", "image": -1, "layer": 1}
    first = select(results.layers, **of)
    for _, cell in cells.iterrows():
        values = first.loc[first["cell_id"].astype(str) == str(cell["cell_id"]), "value"]
        told = predict_cell(frozen[str(cell["cell_id"])]["config"], ("mean_field",))
        expected = float(select(told, **of)["value"].iloc[0])
        mean, error = float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)
        own = pd.isna(cell["init.bias"]) if "init.bias" in cell.index else True
        name = f"{cell['model']}, first layer on a black image, {len(values)} draws: E[y^2]"
        if own:
            yield ClaimResult(
                f"{name}, torch's default biases",
                f"{expected:.3g}: biases are U(-1, 1) / sqrt(fan_in) (false: 'they are 0')",
                f"{mean:.3g} (se {error:.1g})",
                bool(abs(mean - expected) <= criterion["bias_se"] * error) and mean > 0,
            )
        else:
            yield ClaimResult(f"{name}, biases set to 0", "0", f"{mean:g}", mean == 0)


def init_claims(results: Results, criterion: Mapping[str, Any]) -> Iterator[ClaimResult]:
    """He and Xavier with ReLU and tanh: accuracy at each one's best learning rate, and moments."""
    cells = part_cells(results, "which init")
    cells = cells.assign(
        init=cells["init"].astype(str),
        activation=cells["activation"].astype(str),
        accuracy=cells["test_accuracy"].fillna(0.0),  # of what diverged
    )
    by_rate = cells.groupby(["activation", "init", "optim.lr"])["accuracy"].mean()
    best = by_rate.groupby(["activation", "init"]).max()
    seeds, depth = cells["seed"].nunique(), int(cells["model.depth"].iloc[0])
    for activation, (partner, other) in PARTNERS.items():
        if activation not in best.index:
            continue
        mine = best[activation]
        shown = ", ".join(f"{name} {mine[init]:.2f}" for init, name in NAMES.items())
        ahead = float(mine[partner] - mine[other])
        yield ClaimResult(
            f"{activation}, depth {depth}: test accuracy at the best learning rate, {seeds} seeds",
            f"{NAMES[partner]} ahead of {NAMES[other]} (usually said)",
            shown,
            ahead >= float(criterion["accuracy"]),
        )
    yield from _moments(results, cells)


def _moments(results: Results, cells: pd.DataFrame) -> Iterator[ClaimResult]:
    depth = int(cells["model.depth"].iloc[0])
    about = cells[["cell_id", "activation", "init"]]
    told = select(results.layers, image=-1, step=0).merge(about, on="cell_id")
    for activation in cells["activation"].unique():
        parts = []
        for init, name in NAMES.items():
            mine = select(told, activation=activation, init=init)
            forward = _ratio(mine, "preact_m2", depth - 1, 1)
            back = _ratio(mine, "vjp_m2", 1, depth - 1)
            parts.append(f"{name} {forward:.1g} and {back:.1g}")
        yield ClaimResult(
            f"{activation}, depth {depth}: E[y^2] of the last hidden layer over the first's, and "
            "the gradient's the other way",
            "nothing is claimed",
            "; ".join(parts),
            None,
        )


def _ratio(layers: pd.DataFrame, quantity: str, of: int, over: int) -> float:
    """Geometric mean over draws of one layer's moment over another's."""
    keys = ["cell_id", "draw"]
    a = select(layers, quantity=quantity, layer=of).set_index(keys)["value"]
    b = select(layers, quantity=quantity, layer=over).set_index(keys)["value"]
    with np.errstate(divide="ignore"):
        return float(np.exp(np.log(a / b).mean()))


def unit_spreads(results: Results) -> pd.DataFrame:
    """By start and activation, how far the hidden units of a layer differ from each other.

    Returns
    -------
    pandas.DataFrame
        `start`, `activation`, `spread` (largest over hidden layers and probe images: standard
        deviation over units / root mean square; 0 where all are 0), `weights_zero` (are all of
        them), `accuracy`, `steps`.
    """
    cells, layers = part_cells(results, "symmetry"), results.layers
    rows = []
    for _, cell in cells.iterrows():
        steps = int(cell["train.steps"])
        mine = layers[layers["cell_id"].astype(str) == str(cell["cell_id"])]
        after = mine[mine["step"] == steps]
        hidden = (after["layer"] > 0) & (after["layer"] < cell["model.depth"])
        wide = after[hidden & (after["image"] >= 0)].pivot_table(
            index=["layer", "image"], columns="quantity", values="value", observed=True
        )
        # Each image by itself: what differs over units, and not over images.
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
    named = str(cell["init"])
    has_biases = "init.bias.std" in cell.index and cell["init.bias.std"] > 0
    return f"{named}, biases" if named == "zeros" and has_biases else named


def symmetry_claims(found: pd.DataFrame, criterion: Mapping[str, Any]) -> Iterator[ClaimResult]:
    """Of each start, whether its units stayed equal."""
    equal_units = float(criterion["equal_units"])
    for start, words in STARTS.items():
        mine = found[found["start"] == start]
        if mine.empty:
            continue
        equal = mine["spread"] < equal_units
        claimed = {
            "zeros": ("equal for ever (usually said of any zero init)", bool(equal.all())),
            "zeros, biases": ("false: not equal, the biases tell them apart", not equal.any()),
            "constant": ("equal for ever", bool(equal.all())),
        }.get(start, ("nothing is claimed", None))
        yield ClaimResult(
            f"{words}: spread over a hidden layer's units, as a share of their size, after "
            f"{int(mine['steps'].iloc[0])} steps",
            claimed[0],
            _shown(mine, "spread", ".1g"),
            claimed[1],
        )
    zeros = found[found["start"] == "zeros"]
    for activation, expected in (("relu", True), ("tanh", True), ("sigmoid", False)):
        mine = zeros[zeros["activation"] == activation]
        if mine.empty:
            continue
        yield ClaimResult(
            f"zero weights and biases, {activation}: are all weights 0 after training",
            "yes: only the last layer's bias moves" if expected else "no: sigmoid(0) is 1/2",
            "yes" if bool(mine["weights_zero"].all()) else "no",
            bool(mine["weights_zero"].all()) == expected,
        )
    yield ClaimResult(
        "test accuracy after that",
        "nothing is claimed",
        "; ".join(
            f"{words}: {_shown(found[found['start'] == start], 'accuracy', '.2f')}"
            for start, words in STARTS.items()
            if (found["start"] == start).any()
        ),
        None,
    )


def _shown(mine: pd.DataFrame, column: str, form: str) -> str:
    pairs = zip(mine["activation"], mine[column], strict=True)
    return ", ".join(f"{value:{form}} ({name})" for name, value in pairs)


def first_nan_step(config: Mapping[str, Any]) -> int | None:
    """The first step whose batch has a value that is no number, by the order of the batches."""
    cell = build_cell(config)
    data, scaling = prepared(cell, torch.device("cpu"))
    spoilt = ~scaling.apply(data.train.x).isfinite().flatten(1).all(1)
    size = cell.train.batch_of(len(data.train))
    batches = BatchOrder(len(data.train), size, cell.seed_data)
    steps = range(cell.train.total_steps(len(data.train)))
    return next((step for step in steps if bool(spoilt[batches.at(step)].any())), None)


def bad_data_claims(results: Results) -> Iterator[ClaimResult]:
    """Missing values and outliers: failure_time they show, predicted_share from the order of the batches."""
    cells, frozen = part_cells(results, "bad data"), read_plan(results.folder)
    plain = cells[cells["clip"].astype(str) == "none"]
    for scaling in plain["scaling"].astype(str).unique():
        mine = plain[plain["scaling"].astype(str) == scaling]
        missing = mine[mine["data.corrupt.kind"].astype(str) == "missing"]
        told = [first_nan_step(frozen[str(cell)]["config"]) for cell in missing["cell_id"]]
        steps = missing["bad_step"].tolist()
        agree = [t == s or (t is None and s != s) for t, s in zip(told, steps, strict=True)]
        shown = ", ".join("never" if s != s else f"{s:.0f}" for s in steps)
        why = {
            "standardize": "0: the mean is NaN, and so is every image",
            "unit": "the first batch that holds a spoilt image",
        }.get(scaling, "")
        yield ClaimResult(
            f"missing values, scaling={scaling}: step of the first NaN loss",
            f"{why} ({', '.join(map(str, told))})",
            shown,
            all(agree) if agree else None,
        )
        outliers = mine[mine["data.corrupt.kind"].astype(str) == "outlier"]
        bad = int(outliers["bad_step"].notna().sum())
        yield ClaimResult(
            f"images times 100, scaling={scaling}: inf or NaN loss",
            "nothing is claimed",
            share(bad, len(outliers)),
            None,
        )
