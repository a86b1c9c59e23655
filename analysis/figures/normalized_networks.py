"""What a normalization makes of networks of any depth, width and weights: moments and training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.study import Headline
from analysis.figures.style import PALETTE
from analysis.load import Results
from experiments.config.schema import build_cell
from experiments.errors import FaninError
from experiments.sweep.store.frozen import read_frozen

MOMENTS_SIZE, ACCURACY_SIZE = (6.8, 2.6), (6.8, 2.5)  # inches
NORMS = {
    "none": "nothing",
    "mean_only": "means subtracted",
    "layer": "layer normalization",
    "batch": "batch normalization",
}
NORMALIZING = ("layer", "batch")
HUGE = ("U(0, 1)", "U(-1, 1)")
CENTRED = ("He", "U(-1, 1)")  # weights of mean zero
LOOKS: dict[str, dict[str, Any]] = {
    "He": {"color": PALETTE[0], "marker": "o", "linestyle": "-"},
    "U(-1, 1)": {"color": PALETTE[1], "marker": "s", "linestyle": (0, (4, 1.5))},
    "U(0, 1)": {"color": PALETTE[2], "marker": "^", "linestyle": (0, (1, 1))},
}
SIZE = ["model.depth", "model.width"]


@dataclass(frozen=True)
class Networks:
    """The third grid.

    Attributes
    ----------
    cells
        `init` (a key of `LOOKS`), `model.norm`, `model.depth`, `model.width`, `seed`, `outcome`,
        `test_accuracy`.
    moments
        The same columns for every `layer` and `quantity` (`act_m2`, `preact_m2`): `value`, mean
        over `draws` draws, and `se`.
    steps, images
        Of training.
    positions
        Of the maps, all of which the output layer reads.
    """

    cells: pd.DataFrame
    moments: pd.DataFrame
    steps: int
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
    kept = ["cell_id", "model.norm", *SIZE, "seed", "outcome", "test_accuracy"]
    cells = mine[kept].assign(init=_inits(mine))
    sizes = cells[SIZE].drop_duplicates()
    there = cells.groupby(["model.norm", "init", *SIZE], observed=True).ngroups
    if not there or there < len(NORMS) * len(LOOKS) * len(sizes):
        raise FaninError(
            f"{results.folder.root}: {there} kinds of plain networks have run, fewer than "
            f"{len(NORMS)} normalizations times {len(LOOKS)} inits: the sweep has not ended"
        )
    layers = results.layers
    wanted = layers["quantity"].isin(["act_m2", "preact_m2"]) & (layers["image"] == -1)
    rows = layers[wanted & (layers["layer"] > 0) & (layers["step"] == 0)].merge(cells, on="cell_id")
    groups = rows.groupby(
        ["model.norm", "init", *SIZE, "layer", "quantity"], observed=True, as_index=False
    )["value"]
    moments = groups.agg(value="mean", se="sem", draws="size")
    steps, images = int(mine["train.steps"].iloc[0]), int(mine["data.n_train"].iloc[0])
    return Networks(cells, moments, steps, images, _positions(results, mine["cell_id"].iloc[0]))


def _positions(results: Results, cell_id: str) -> int:
    config = read_frozen(results.folder)[cell_id]["config"]
    readout = build_cell(config).network()[-1]
    return int(readout.weight.shape[1] // config["model"]["width"])


def _inits(cells: pd.DataFrame) -> pd.Series:
    uniform = np.where(cells["init.a"] < 0, "U(-1, 1)", "U(0, 1)")
    return pd.Series(np.where(cells["init"] == "uniform", uniform, "He"), cells.index)


def caption(found: Networks) -> str:
    """Setting and n."""
    draws = int(found.moments["draws"].min())
    seeds = found.cells["seed"].nunique()
    return (
        "Third: plain ReLU networks on digits at initialization, second moment "
        f"behind normalization and ReLU, mean over {draws} draws, of depth "
        f"{found.cells['model.depth'].max()} (thin: width {found.cells['model.width'].min()}, "
        f"thick: {found.cells['model.width'].max()}); dotted: 1/2. Fourth: test "
        f"accuracy after {found.steps} steps on {found.images} digits, mean over {seeds} seeds; "
        "x: all diverged; a network that diverged counts as 0.1."
    )


def headlines(found: Networks, criterion: Mapping[str, Any]) -> Iterator[Headline]:
    """Moments and training, with a normalization and without."""
    yield from _moments(found, float(criterion["half"]))
    yield from _logits(found, float(criterion["se"]))
    yield from _training(found, float(criterion["learns"]), float(criterion["more"]))


def _moments(found: Networks, half: float) -> Iterator[Headline]:
    behind = found.moments[found.moments["quantity"] == "act_m2"]
    sizes = f"{len(behind[SIZE].drop_duplicates())} depths and widths"
    for norm in ("none", "mean_only"):
        deepest = _deepest(behind[behind["model.norm"] == norm])
        low, high = deepest.min(), deepest.max()
        yield Headline(
            f"{NORMS[norm]}: second moment behind the last ReLU, {sizes}, {len(LOOKS)} inits",
            "depends on all of them", f"{low:.2g} to {high:.2g}", None,
        )  # fmt: skip
    for norm in NORMALIZING:
        mine = behind[behind["model.norm"] == norm]
        centred = mine[mine["init"].isin(CENTRED)]
        means = centred.groupby(["init", *SIZE])["value"].mean()
        yield Headline(
            f"{NORMS[norm]}, weights of mean 0: second moment behind ReLU, {sizes}, "
            f"{len(CENTRED)} inits, mean over a network's layers",
            "1/2, whatever they are (our theory)",
            f"{means.min():.3f} to {means.max():.3f}",
            bool((means < 0.5 * half).all() and (means > 0.5 / half).all()),
        )
        others = mine[~mine["init"].isin(CENTRED)]["value"]
        yield Headline(
            f"{NORMS[norm]}, weights U(0, 1): second moment behind ReLU, {sizes}, each layer",
            "at most 1, whatever they are (closed form)",
            f"{others.min():.3f} to {others.max():.3f}",
            bool(others.max() <= 1),
        )


def _deepest(behind: pd.DataFrame) -> pd.Series:
    return behind[behind["layer"] == behind["model.depth"] - 1]["value"]


def _logits(found: Networks, se: float) -> Iterator[Headline]:
    """E[y^2] of the outputs is n Var[w] / 2: of their own layer's weights, not of the depth."""
    made, depths = found.moments, sorted(found.moments["model.depth"].unique())
    for norm in NORMALIZING:
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
        yield Headline(
            f"{NORMS[norm]}, weights U(-1, 1): E[y^2] of the outputs over n Var[w] / 2 of the "
            f"output layer, depth {' and '.join(map(str, depths))}",
            "1 (our theory): whatever the depth, but growing with the width",
            "; ".join(told),
            fine,
        )


def _training(found: Networks, learns: float, more: float) -> Iterator[Headline]:
    cells = found.cells
    learnt = (cells["outcome"] == "ok") & (cells["test_accuracy"] > learns)
    huge = cells["init"].isin(HUGE)
    share = {norm: learnt[huge & (cells["model.norm"] == norm)].mean() for norm in NORMS}
    n = int((huge & (cells["model.norm"] == "none")).sum())
    for norm in ("mean_only", *NORMALIZING):
        counts = f"{round(n * share[norm])} of {n}; with nothing {round(n * share['none'])} of {n}"
        better = bool(share[norm] >= share["none"] + more)
        claimed = norm in NORMALIZING
        yield Headline(
            f"{NORMS[norm]}: networks with huge weights, U(0, 1) and U(-1, 1), that learn",
            "more than with nothing (the common advice)" if claimed
            else "false that it helps (the asker's doubt)",
            counts,
            better if claimed else not better,
        )  # fmt: skip
    for norm in NORMALIZING:
        mine = cells["model.norm"] == norm
        by = {init: learnt[mine & (cells["init"] == init)] for init in LOOKS}
        yield Headline(
            f"{NORMS[norm]}: networks that learn, by init",
            "nothing is claimed",
            ", ".join(f"{init} {int(each.sum())} of {len(each)}" for init, each in by.items()),
            None,
        )


def moments_figure(found: Networks) -> Figure:
    """Second moment behind normalization and ReLU by layer, a normalization a panel."""
    figure = Figure(figsize=MOMENTS_SIZE, layout="constrained")
    axes = figure.subplots(1, len(NORMS), sharey=True)
    behind = found.moments[found.moments["quantity"] == "act_m2"]
    deep = behind[behind["model.depth"] == behind["model.depth"].max()]
    for axis, (norm, words) in zip(axes, NORMS.items(), strict=True):
        for init, look in LOOKS.items():
            mine = deep[(deep["model.norm"] == norm) & (deep["init"] == init)]
            for number, (_, rows) in enumerate(mine.groupby("model.width")):
                axis.plot(
                    rows["layer"], rows["value"], **look, linewidth=0.7 + 0.9 * number,
                    markersize=2.5 + 2 * number, markerfacecolor="none",
                    label=init if number else None,
                )  # fmt: skip
        axis.axhline(0.5, color="0.4", linestyle=":", linewidth=0.8)
        axis.set_yscale("log")
        axis.set_title(words, fontsize="small")
        axis.minorticks_off()
        sns.despine(ax=axis)
    axes[0].set_ylabel(r"behind ReLU $\mathbb{E}[x_l^2]$" "\n(dimensionless)", fontsize="small")
    figure.supxlabel("layer $l$", fontsize="small")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, [f"weights {label}" for label in labels],
        loc="outside upper center", ncols=3, frameon=False, fontsize="small",
    )  # fmt: skip
    return figure


def accuracy_figure(found: Networks) -> Figure:
    """Test accuracy, a normalization a row, an init a panel, a size a column."""
    figure = Figure(figsize=ACCURACY_SIZE, layout="constrained")
    axes = figure.subplots(1, len(LOOKS), sharey=True)
    cells = found.cells.assign(
        accuracy=found.cells["test_accuracy"].where(found.cells["outcome"] == "ok", 0.1),
        diverged=found.cells["outcome"] == "diverged",
    )
    for axis, init in zip(axes, LOOKS, strict=True):
        groups = cells[cells["init"] == init].groupby(["model.norm", *SIZE], observed=True)
        accuracy = groups["accuracy"].mean().unstack(SIZE).loc[list(NORMS)].sort_index(axis=1)
        lost = groups["diverged"].all().unstack(SIZE).loc[list(NORMS)].sort_index(axis=1)
        _map(axis, accuracy, lost)
        axis.set_title(f"weights {init}", fontsize="small")
    axes[0].set_yticks(range(len(NORMS)), list(NORMS.values()), fontsize="small")
    bar = figure.colorbar(axes[0].images[0], ax=axes, shrink=0.8, pad=0.02)
    bar.set_label("test accuracy", fontsize="small")
    figure.supxlabel("depth x width", fontsize="small")
    return figure


def _map(axis: Axes, accuracy: pd.DataFrame, lost: pd.DataFrame) -> None:
    axis.imshow(accuracy, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for row in range(len(accuracy)):
        for column in range(accuracy.shape[1]):
            value = accuracy.iloc[row, column]
            axis.text(
                column, row, "x" if lost.iloc[row, column] else f"{value:.2f}",
                ha="center", va="center", fontsize="x-small",
                color="black" if value > 0.5 else "white",
            )  # fmt: skip
    names = [f"{depth} x {width}" for depth, width in accuracy.columns]
    axis.set_xticks(range(len(names)), names, fontsize="x-small", rotation=30)
    axis.tick_params(length=0)
