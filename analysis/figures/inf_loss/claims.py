"""Two claims usually repeated: torch's default bias is zero; He for ReLU, Xavier for tanh."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.inf_loss.parts import cells_of
from analysis.figures.study import Headline
from analysis.load import Results
from analysis.predict_cell import predict_cell
from experiments.sweep.store.plan_file import read_frozen

NAMES = {"he_normal": "He", "xavier_normal": "Xavier", "pytorch_default": "torch's default"}
PARTNERS = {"relu": ("he_normal", "xavier_normal"), "tanh": ("xavier_normal", "he_normal")}


def bias_headlines(results: Results, criterion: Mapping[str, Any]) -> Iterator[Headline]:
    """What the first layer makes of a black image: the mean square of its biases."""
    cells, frozen = cells_of(results, "black"), read_frozen(results.folder)
    layers = results.layers
    first = layers[
        (layers["quantity"] == "preact_m2") & (layers["image"] == -1) & (layers["layer"] == 1)
    ]
    for _, cell in cells.iterrows():
        values = first.loc[first["cell_id"].astype(str) == str(cell["cell_id"]), "value"]
        told = predict_cell(frozen[str(cell["cell_id"])]["config"], ("mean_field",))
        mine = told[(told["quantity"] == "preact_m2") & (told["image"] == -1)]
        expected = float(mine.loc[mine["layer"] == 1, "value"].iloc[0])
        mean, error = float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)
        own = pd.isna(cell["init.bias"]) if "init.bias" in cell.index else True
        name = f"{cell['model']}, first layer on a black image, {len(values)} draws: E[y^2]"
        if own:
            yield Headline(
                f"{name}, torch's default biases",
                f"{expected:.3g}: biases are U(-1, 1) / sqrt(fan_in) (false: 'they are 0')",
                f"{mean:.3g} (se {error:.1g})",
                bool(abs(mean - expected) <= criterion["bias_se"] * error) and mean > 0,
            )
        else:
            yield Headline(f"{name}, biases set to 0", "0", f"{mean:g}", mean == 0)


def init_headlines(results: Results, criterion: Mapping[str, Any]) -> Iterator[Headline]:
    """He and Xavier with ReLU and tanh: accuracy at each one's best learning rate, and moments."""
    cells = cells_of(results, "which init")
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
        yield Headline(
            f"{activation}, depth {depth}: test accuracy at the best learning rate, {seeds} seeds",
            f"{NAMES[partner]} ahead of {NAMES[other]} (usually said)",
            shown,
            ahead >= float(criterion["accuracy"]),
        )
    yield from _moments(results, cells)


def _moments(results: Results, cells: pd.DataFrame) -> Iterator[Headline]:
    layers = results.layers
    depth = int(cells["model.depth"].iloc[0])
    told = layers[(layers["image"] == -1) & (layers["step"] == 0)].merge(
        cells[["cell_id", "activation", "init"]], on="cell_id"
    )
    for activation in cells["activation"].unique():
        parts = []
        for init, name in NAMES.items():
            mine = told[(told["activation"] == activation) & (told["init"] == init)]
            forward = _ratio(mine, "preact_m2", depth - 1, 1)
            back = _ratio(mine, "vjp_m2", 1, depth - 1)
            parts.append(f"{name} {forward:.1g} and {back:.1g}")
        yield Headline(
            f"{activation}, depth {depth}: E[y^2] of the last hidden layer over the first's, and "
            "the gradient's the other way",
            "nothing is claimed",
            "; ".join(parts),
            None,
        )


def _ratio(layers: pd.DataFrame, quantity: str, of: int, over: int) -> float:
    """Geometric mean over draws of one layer's moment over another's."""
    mine = layers[layers["quantity"] == quantity]
    keys = ["cell_id", "draw"]
    a = mine[mine["layer"] == of].set_index(keys)["value"]
    b = mine[mine["layer"] == over].set_index(keys)["value"]
    with np.errstate(divide="ignore"):
        return float(np.exp(np.log(a / b).mean()))
