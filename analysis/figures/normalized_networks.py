"""Normalized networks of any depth, width and weights: moments and training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures.study import ClaimResult
from analysis.figures.style import PALETTE
from analysis.load import Results
from experiments.schema import build_cell
from experiments.sweep.store.plan_file import read_plan
from fanin.errors import FaninError
from fanin.inits import WeightShape, weight_layers

NORM_LABELS = {
    "none": "nothing",
    "mean_only": "means subtracted",
    "layer": "layer normalization",
    "batch": "batch normalization",
}
NORMALIZATIONS = ("layer", "batch")
LARGE_INITS = ("U(0, 1)", "U(-1, 1)")
ZERO_MEAN_INITS = ("He", "U(-1, 1)")  # weights of mean zero
STYLES: dict[str, dict[str, Any]] = {
    "He": {"color": PALETTE[0], "marker": "o", "linestyle": "-"},
    "U(-1, 1)": {"color": PALETTE[1], "marker": "s", "linestyle": (0, (4, 1.5))},
    "U(0, 1)": {"color": PALETTE[2], "marker": "^", "linestyle": (0, (1, 1))},
}
SIZE_KEYS = ["model.depth", "model.width"]
KEYS = ["model.norm", "init", *SIZE_KEYS]
CHANCE_ACCURACY = 0.1  # of ten digits
MOMENTS_SIZE, ACCURACY_SIZE = (6.8, 2.6), (6.8, 2.5)  # inches


@dataclass(frozen=True)
class Networks:
    """The plain networks, measured at initialization and trained.

    Attributes
    ----------
    trained
        A row per `model.norm`, `init` (a key of `STYLES`) and size: `accuracy` on test images at
        the best learning rate, mean over seeds (what diverged counts as guessing), and `diverged`,
        whether all did at every learning rate.
    moments
        A row per the same, `layer` and `quantity` (`act_m2`, `preact_m2`): `value`, mean over
        `draws` draws, and `se`.
    act_means
        The same of `act_m2` averaged over a network's layers.
    seeds, rates
        Of training: how many, and which learning rates.
    epochs, images
        Of training.
    positions
        Of the maps, all of which the output layer reads.
    """

    trained: pd.DataFrame
    moments: pd.DataFrame
    act_means: pd.DataFrame
    seeds: int
    rates: tuple[float, ...]
    epochs: float
    images: int
    positions: int


def networks(results: Results) -> Networks:
    """The plain networks of a sweep.

    Raises
    ------
    FaninError
        A normalization, init or size has no cell that has run.
    """
    mine = results.cells[results.cells["model"] == "plain"]
    if mine.empty or "init.a" not in mine:
        raise FaninError(f"{results.folder.root}: no plain network of uniform weights has run yet")
    mine = mine.assign(init=_inits(mine)).astype(dict.fromkeys(SIZE_KEYS, int))
    runs = mine[mine["train.steps"] != 0]
    draws = _draws(results.layers, mine)
    found = Networks(
        trained=_best(runs),
        moments=_mean_over_draws(draws, [*KEYS, "layer", "quantity"]),
        act_means=_mean_over_draws(_mean_over_layers(draws), KEYS),
        seeds=runs["seed"].nunique(),
        rates=tuple(sorted(runs["optim.lr"].unique())),
        epochs=float(runs["train.epochs"].max()),
        images=int(mine["data.n_train"].iloc[0]),
        positions=_positions(results, mine["cell_id"].iloc[0]),
    )
    kinds = len(NORM_LABELS) * len(STYLES) * len(mine[SIZE_KEYS].drop_duplicates())
    for rows in (found.trained, found.moments.drop_duplicates(KEYS)):
        if len(rows) < kinds:
            raise FaninError(
                f"{results.folder.root}: {len(rows)} of {kinds} kinds of plain networks have run: "
                "the sweep has not ended"
            )
    return found


def _inits(cells: pd.DataFrame) -> pd.Series:
    uniform = np.where(cells["init.a"] < 0, "U(-1, 1)", "U(0, 1)")
    return pd.Series(np.where(cells["init"] == "uniform", uniform, "He"), cells.index)


def _best(runs: pd.DataFrame) -> pd.DataFrame:
    diverged = runs["outcome"] == "diverged"
    told = runs.assign(accuracy=runs["test_accuracy"].mask(diverged, CHANCE_ACCURACY), diverged=diverged)
    rates = told.groupby([*KEYS, "optim.lr"], observed=True, as_index=False).agg(
        accuracy=("accuracy", "mean"), diverged=("diverged", "all")
    )
    return rates.groupby(KEYS, observed=True, as_index=False).agg(
        accuracy=("accuracy", "max"), diverged=("diverged", "all")
    )


def _draws(layers: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Each draw of the weights once, for cells that train differently share them."""
    wanted = layers["quantity"].isin(["act_m2", "preact_m2"]) & (layers["image"] == -1)
    wanted &= (layers["layer"] > 0) & (layers["step"] == 0)
    rows = layers[wanted].merge(cells[["cell_id", *KEYS, "seed_weights"]], on="cell_id")
    return rows.drop_duplicates([*KEYS, "layer", "quantity", "seed_weights", "draw"])


def _mean_over_layers(draws: pd.DataFrame) -> pd.DataFrame:
    """Average what is act_means the ReLUs over each draw's layers."""
    rows = draws[draws["quantity"] == "act_m2"]
    each = [*KEYS, "seed_weights", "draw"]
    return rows.groupby(each, observed=True, as_index=False)["value"].mean()


def _mean_over_draws(rows: pd.DataFrame, each: list[str]) -> pd.DataFrame:
    groups = rows.groupby(each, observed=True, as_index=False)["value"]
    return groups.agg(value="mean", se="sem", draws="size")


def _positions(results: Results, cell_id: str) -> int:
    config = read_plan(results.folder)[cell_id]["config"]
    last = WeightShape.of(list(weight_layers(build_cell(config).network()).values())[-1])
    return last.in_features // int(config["model"]["width"])


def caption(found: Networks) -> str:
    """Setting and n."""
    made = found.moments
    return (
        "Third: plain ReLU networks on digits at initialization, second moment act_means "
        f"normalization and ReLU, mean over {int(made['draws'].min())} draws, of depth "
        f"{made['model.depth'].max()} (thin: width {made['model.width'].min()}, thick: "
        f"{made['model.width'].max()}); dotted: 1/2. Fourth: test accuracy after "
        f"{found.epochs:g} epochs on {found.images} digits, mean over seeds ({found.seeds}) at the "
        f"best learning rate of {', '.join(f'{rate:g}' for rate in found.rates)}; a network that "
        "diverged counts as guessing, and x: all did."
    )


def claim_results(found: Networks, criterion: Mapping[str, Any]) -> Iterator[ClaimResult]:
    """Moments and training, with a normalization and without."""
    yield from _moments(found, float(criterion["half"]))
    yield from _logits(found, float(criterion["se"]))
    yield from _training(found, float(criterion["learns"]), float(criterion["more"]))


def _moments(found: Networks, half: float) -> Iterator[ClaimResult]:
    act_means = found.moments[found.moments["quantity"] == "act_m2"]
    sizes = f"{len(act_means[SIZE_KEYS].drop_duplicates())} depths and widths"
    for norm in ("none", "mean_only"):
        deepest = _deepest(act_means[act_means["model.norm"] == norm])
        low, high = deepest.min(), deepest.max()
        yield ClaimResult(
            f"{NORM_LABELS[norm]}: second moment act_means the last ReLU, {sizes}, {len(STYLES)}
            inits", "depends on all of them", f"{low:.2g} to {high:.2g}", None,
        )  # fmt: skip
    for norm in NORMALIZATIONS:
        mine = act_means[act_means["model.norm"] == norm]
        all_of = found.act_means[found.act_means["model.norm"] == norm]
        means = all_of[all_of["init"].isin(ZERO_MEAN_INITS)].sort_values("value")
        right = means["value"].between(0.5 / half, 0.5 * half)
        ends = [f"{row.value:.3f} (se {row.se:.3f})" for row in means.iloc[[0, -1]].itertuples()]
        yield ClaimResult(
            f"{NORM_LABELS[norm]}, weights of mean 0: second moment act_means ReLU, {sizes}, "
            f"{len(ZERO_MEAN_INITS)} inits, mean over a network's layers",
            "1/2, whatever they are (our theory)",
            " to ".join(ends),
            bool(right.all()),
        )
        others = mine[~mine["init"].isin(ZERO_MEAN_INITS)]["value"]
        yield ClaimResult(
            f"{NORM_LABELS[norm]}, weights U(0, 1): second moment act_means ReLU, {sizes}, each
            layer", "at most 1, whatever they are (closed form)", f"{others.min():.3f} to
            {others.max():.3f}", bool(others.max() <= 1),
        )


def _deepest(act_means: pd.DataFrame) -> pd.Series:
    return act_means[act_means["layer"] == act_means["model.depth"] - 1]["value"]


def _logits(found: Networks, se: float) -> Iterator[ClaimResult]:
    """E[y^2] of the outputs is n Var[w] / 2: of their own layer's weights, not of the depth."""
    made, depths = found.moments, sorted(found.moments["model.depth"].unique())
    for norm in NORMALIZATIONS:
        last = made[
            (made["quantity"] == "preact_m2")
            & (made["layer"] == made["model.depth"])
            & (made["model.norm"] == norm)
            & (made["init"] == "U(-1, 1)")
        ]
        told, fine = [], True
        for width, rows in last.groupby("model.width"):
            expected = found.positions * int(width) / 3 / 2
            ratio = rows.sort_values("model.depth")["value"] / expected
            error = rows.sort_values("model.depth")["se"] / expected
            fine &= bool((np.abs(ratio - 1) <= se * error).all())
            values = ", ".join(f"{r:.2f} (se {e:.2f})" for r, e in zip(ratio, error, strict=True))
            told.append(f"width {width}: {values}")
        yield ClaimResult(
            f"{NORM_LABELS[norm]}, weights U(-1, 1): E[y^2] of the outputs over n Var[w] / 2 of the
            " f"output layer, depth {' and '.join(map(str, depths))}", "1 (our theory): whatever the
            depth, but growing with the width", "; ".join(told), fine,
        )


def _training(found: Networks, learns: float, more: float) -> Iterator[ClaimResult]:
    kinds = found.trained
    learnt = kinds["accuracy"] > learns
    huge = kinds["init"].isin(LARGE_INITS)
    of = {norm: learnt[huge & (kinds["model.norm"] == norm)] for norm in NORM_LABELS}
    for norm in ("mean_only", *NORMALIZATIONS):
        better = bool(of[norm].mean() >= of["none"].mean() + more)
        claimed = norm in NORMALIZATIONS
        yield ClaimResult(
            f"{NORM_LABELS[norm]}: networks with huge weights, U(0, 1) and U(-1, 1), that learn",
            "more than with nothing (the common advice)"
            if claimed
            else "false that it helps (the asker's doubt)",
            f"{_count(of[norm])}; with nothing {_count(of['none'])}",
            better if claimed else not better,
        )
    for norm, words in NORM_LABELS.items():
        mine = kinds["model.norm"] == norm
        by = {init: learnt[mine & (kinds["init"] == init)] for init in STYLES}
        yield ClaimResult(
            f"{words}: networks that learn, by init",
            "nothing is claimed",
            ", ".join(f"{init} {_count(each)}" for init, each in by.items()),
            None,
        )


def _count(learnt: pd.Series) -> str:
    return f"{int(learnt.sum())} of {len(learnt)}"


def moments_figure(found: Networks) -> Figure:
    """Second moment act_means normalization and ReLU by layer, a normalization a panel."""
    figure = Figure(figsize=MOMENTS_SIZE, layout="constrained")
    axes = figure.subplots(1, len(NORM_LABELS), sharey=True)
    act_means = found.moments[found.moments["quantity"] == "act_m2"]
    deep = act_means[act_means["model.depth"] == act_means["model.depth"].max()]
    for axis, (norm, words) in zip(axes, NORM_LABELS.items(), strict=True):
        for init, style in STYLES.items():
            mine = deep[(deep["model.norm"] == norm) & (deep["init"] == init)]
            for number, (_, rows) in enumerate(mine.groupby("model.width")):
                axis.plot(
                    rows["layer"], rows["value"], **style, linewidth=0.7 + 0.9 * number,
                    markersize=2.5 + 2 * number, markerfacecolor="none",
                    label=init if number else None,
                )  # fmt: skip
        axis.axhline(0.5, color="0.4", linestyle=":", linewidth=0.8)
        axis.set_yscale("log")
        axis.set_title(words, fontsize="small")
        axis.minorticks_off()
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        sns.despine(ax=axis)
    axes[0].set_ylabel(r"act_means ReLU $\mathbb{E}[x_l^2]$" "\n(dimensionless)", fontsize="small")
    figure.supxlabel("layer $l$", fontsize="small")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, [f"{label} weights" for label in labels],
        loc="outside upper center", ncols=3, frameon=False, fontsize="small",
    )  # fmt: skip
    return figure


def accuracy_figure(found: Networks) -> Figure:
    """Test accuracy, a normalization a row, an init a panel, a size a column."""
    figure = Figure(figsize=ACCURACY_SIZE, layout="constrained")
    axes = figure.subplots(1, len(STYLES), sharey=True)
    for axis, init in zip(axes, STYLES, strict=True):
        mine = found.trained[found.trained["init"] == init]
        table = mine.pivot(index="model.norm", columns=SIZE_KEYS, values=["accuracy", "diverged"])
        table = table.loc[list(NORM_LABELS)].sort_index(axis=1)
        _accuracy_map(axis, table["accuracy"].astype(float), table["diverged"].astype(bool))
        axis.set_title(f"{init} weights", fontsize="small")
    axes[0].set_yticks(range(len(NORM_LABELS)), list(NORM_LABELS.values()), fontsize="small")
    bar = figure.colorbar(axes[0].images[0], ax=axes, shrink=0.8, pad=0.02)
    bar.set_label("test accuracy", fontsize="small")
    figure.supxlabel("depth x width", fontsize="small")
    return figure


def _accuracy_map(axis: Axes, accuracy: pd.DataFrame, diverged: pd.DataFrame) -> None:
    axis.imshow(accuracy, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(accuracy.to_numpy()):
        axis.text(
            column, row, "x" if diverged.iloc[row, column] else f"{value:.2f}",
            ha="center", va="center", fontsize="x-small",
            color="black" if value > 0.5 else "white",
        )  # fmt: skip
    names = [f"{depth} x {width}" for depth, width in accuracy.columns]
    axis.set_xticks(range(len(names)), names, fontsize="x-small", rotation=30)
    axis.tick_params(length=0)
