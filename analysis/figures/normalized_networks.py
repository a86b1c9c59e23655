"""Moments and training of plain networks with and without normalization."""

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
from fanin.errors import FaninError
from fanin.inits import WeightShape, weight_layers

NORM_LABELS = {
    "none": "no normalization",
    "mean_only": "means subtracted",
    "layer": "layer normalization",
    "batch": "batch normalization",
}
NORMALIZATIONS = ("layer", "batch")
LARGE_INITS = ("U(0, 1)", "U(-1, 1)")
ZERO_MEAN_INITS = ("He", "U(-1, 1)")
STYLES: dict[str, dict[str, Any]] = {
    "He": {"color": PALETTE[0], "marker": "o", "linestyle": "-"},
    "U(-1, 1)": {"color": PALETTE[1], "marker": "s", "linestyle": (0, (4, 1.5))},
    "U(0, 1)": {"color": PALETTE[2], "marker": "^", "linestyle": (0, (1, 1))},
}
SIZE_KEYS = ["model.depth", "model.width"]
KEYS = ["model.norm", "init", *SIZE_KEYS]
CHANCE_ACCURACY = 0.1  # ten digits
MOMENTS_SIZE, ACCURACY_SIZE = (6.8, 2.6), (6.8, 2.5)  # inches


@dataclass(frozen=True)
class Networks:
    """Plain networks of several normalizations, inits and sizes: moments and training.

    Attributes
    ----------
    trained
        One row per `model.norm`, `init` (a key of `STYLES`), `model.depth` and `model.width`.
        `accuracy`: test accuracy at the best learning rate, mean over seeds; a cell that diverged
        counts as chance. `diverged`: True if every seed diverged at every learning rate.
    moments
        One row per normalization, init, size, `layer` and `quantity` (`act_m2`, `preact_m2`):
        `value` (mean over draws), `se` (its standard error) and `draws`.
    act_means
        `act_m2` averaged over the layers of each network; one row per normalization, init and size.
    seeds, learning_rates
        Number of training seeds, and the learning rates.
    epochs, train_images
        Number of training epochs and of training images.
    positions
        Number of positions of the last feature map; the output layer reads all of them.
    """

    trained: pd.DataFrame
    moments: pd.DataFrame
    act_means: pd.DataFrame
    seeds: int
    learning_rates: tuple[float, ...]
    epochs: float
    train_images: int
    positions: int


def load_networks(results: Results) -> Networks:
    """Read the cells of model `plain` of a sweep.

    Raises
    ------
    FaninError
        A combination of normalization, init and size has not run yet.
    """
    cells = results.cells[results.cells["model"] == "plain"]
    if cells.empty or "init.a" not in cells:
        raise FaninError(
            f"{results.folder.root}: no plain network of uniform weights has run yet; "
            "run the rest of the sweep"
        )
    cells = cells.assign(init=_inits(cells)).astype(dict.fromkeys(SIZE_KEYS, int))
    trained = cells[cells["train.steps"] != 0]
    draws = _draws(results.layers, cells)
    networks = Networks(
        trained=_best(trained),
        moments=_mean_over_draws(draws, [*KEYS, "layer", "quantity"]),
        act_means=_mean_over_draws(_mean_over_layers(draws), KEYS),
        seeds=trained["seed"].nunique(),
        learning_rates=tuple(sorted(trained["optim.lr"].unique())),
        epochs=float(trained["train.epochs"].max()),
        train_images=int(cells["data.n_train"].iloc[0]),
        positions=_positions(results, cells["cell_id"].iloc[0]),
    )
    expected = len(NORM_LABELS) * len(STYLES) * len(cells[SIZE_KEYS].drop_duplicates())
    for rows in (networks.trained, networks.moments.drop_duplicates(KEYS)):
        if len(rows) < expected:
            raise FaninError(
                f"{results.folder.root}: {len(rows)} of {expected} combinations of normalization, "
                "init, depth and width have run; run the rest of the sweep"
            )
    return networks


def _inits(cells: pd.DataFrame) -> pd.Series:
    uniform = np.where(cells["init.a"] < 0, "U(-1, 1)", "U(0, 1)")
    return pd.Series(np.where(cells["init"] == "uniform", uniform, "He"), cells.index)


def _best(cells: pd.DataFrame) -> pd.DataFrame:
    diverged = cells["outcome"] == "diverged"
    scored = cells.assign(
        accuracy=cells["test_accuracy"].mask(diverged, CHANCE_ACCURACY), diverged=diverged
    )
    by_rate = scored.groupby([*KEYS, "optim.lr"], observed=True, as_index=False).agg(
        accuracy=("accuracy", "mean"), diverged=("diverged", "all")
    )
    return by_rate.groupby(KEYS, observed=True, as_index=False).agg(
        accuracy=("accuracy", "max"), diverged=("diverged", "all")
    )


def _draws(layers: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Return each draw of the weights once; cells that differ only in training share draws."""
    mask = layers["quantity"].isin(["act_m2", "preact_m2"]) & (layers["image"] == -1)
    mask &= (layers["layer"] > 0) & (layers["step"] == 0)
    rows = layers[mask].merge(cells[["cell_id", *KEYS, "seed_weights"]], on="cell_id")
    return rows.drop_duplicates([*KEYS, "layer", "quantity", "seed_weights", "draw"])


def _mean_over_layers(draws: pd.DataFrame) -> pd.DataFrame:
    """Average the second moment after the ReLU over the layers of each draw."""
    rows = draws[draws["quantity"] == "act_m2"]
    by_draw = [*KEYS, "seed_weights", "draw"]
    return rows.groupby(by_draw, observed=True, as_index=False)["value"].mean()


def _mean_over_draws(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    groups = rows.groupby(keys, observed=True, as_index=False)["value"]
    return groups.agg(value="mean", se="sem", draws="size")


def _positions(results: Results, cell_id: str) -> int:
    config = results.plan[cell_id]["config"]
    last = WeightShape.of(list(weight_layers(build_cell(config).network()).values())[-1])
    return last.in_features // int(config["model"]["width"])


def caption(networks: Networks) -> str:
    """Describe the third and the fourth figure."""
    moments = networks.moments
    rates = ", ".join(f"{rate:g}" for rate in networks.learning_rates)
    return (
        "Third: plain ReLU networks on digits at initialization, second moment after normalization "
        f"and ReLU, mean over {int(moments['draws'].min())} draws, depth "
        f"{moments['model.depth'].max()} (thin lines: width {moments['model.width'].min()}, thick "
        f"lines: width {moments['model.width'].max()}); dotted line: 1/2. Fourth: test accuracy "
        f"after {networks.epochs:g} epochs on {networks.train_images} digits at the best of "
        f"the learning rates {rates}, mean over {networks.seeds} seeds; a diverged run counts as "
        "an accuracy of 1 / number of classes; x: all runs diverged."
    )


def claim_results(networks: Networks, criterion: Mapping[str, Any]) -> Iterator[ClaimResult]:
    """Test the claims on moments and training, with and without normalization."""
    yield from _moment_claims(networks, float(criterion["moment_factor"]))
    yield from _logit_claims(networks, float(criterion["se"]))
    yield from _training_claims(
        networks, float(criterion["trained"]), float(criterion["more_trained"])
    )


def _moment_claims(networks: Networks, factor: float) -> Iterator[ClaimResult]:
    moments = networks.moments[networks.moments["quantity"] == "act_m2"]
    sizes = f"{len(moments[SIZE_KEYS].drop_duplicates())} sizes"
    for norm in ("none", "mean_only"):
        last = _last_hidden(moments[moments["model.norm"] == norm])
        yield ClaimResult(
            f"{NORM_LABELS[norm]}: E[x^2] after the last ReLU, in {sizes} and {len(STYLES)} inits",
            "no test: depends on depth, width and init",
            f"{last.min():.2g} to {last.max():.2g}",
            None,
        )
    for norm in NORMALIZATIONS:
        by_network = networks.act_means[networks.act_means["model.norm"] == norm]
        zero_mean = by_network[by_network["init"].isin(ZERO_MEAN_INITS)].sort_values("value")
        near_half = zero_mean["value"].between(0.5 / factor, 0.5 * factor)
        extremes = zero_mean.iloc[[0, -1]].itertuples()
        yield ClaimResult(
            f"{NORM_LABELS[norm]}, weights of mean 0: E[x^2] after ReLU, mean over a network's "
            f"layers, in {sizes} and {len(ZERO_MEAN_INITS)} inits",
            f"1/2 at any size and init, within a factor of {factor:g} (theory)",
            " to ".join(f"{row.value:.3f} (se {row.se:.3f})" for row in extremes),
            bool(near_half.all()),
            threshold=f"{0.5 / factor:.3g} to {0.5 * factor:.3g}",
        )
        rows = moments[moments["model.norm"] == norm]
        uniform = rows[~rows["init"].isin(ZERO_MEAN_INITS)]["value"]
        yield ClaimResult(
            f"{NORM_LABELS[norm]}, weights U(0, 1): E[x^2] after ReLU in each layer, in {sizes}",
            "at most 1 at any size (closed form)",
            f"{uniform.min():.3f} to {uniform.max():.3f}",
            bool(uniform.max() <= 1),
            threshold="at most 1",
        )


def _last_hidden(moments: pd.DataFrame) -> pd.Series:
    return moments[moments["layer"] == moments["model.depth"] - 1]["value"]


def _logit_claims(networks: Networks, se: float) -> Iterator[ClaimResult]:
    """Test that E[y^2] of the logits is n Var[w] / 2 at any depth.

    n and Var[w] are the fan_in and the weight variance of the output layer.
    """
    moments = networks.moments
    depths = " and ".join(map(str, sorted(moments["model.depth"].unique())))
    for norm in NORMALIZATIONS:
        logits = moments[
            (moments["quantity"] == "preact_m2")
            & (moments["layer"] == moments["model.depth"])
            & (moments["model.norm"] == norm)
            & (moments["init"] == "U(-1, 1)")
        ]
        parts, holds = [], True
        for width, rows in logits.groupby("model.width"):
            expected = networks.positions * int(width) / 3 / 2
            ratio = rows.sort_values("model.depth")["value"] / expected
            error = rows.sort_values("model.depth")["se"] / expected
            holds &= bool((np.abs(ratio - 1) <= se * error).all())
            values = ", ".join(f"{r:.2f} (se {e:.2f})" for r, e in zip(ratio, error, strict=True))
            parts.append(f"width {width}: {values}")
        yield ClaimResult(
            f"{NORM_LABELS[norm]}, weights U(-1, 1): E[y^2] of the outputs / (n Var[w] / 2), at "
            f"depths {depths}",
            "1 at any depth and width n (theory). So E[y^2] grows with the width, not with the "
            "depth",
            "; ".join(parts),
            holds,
            threshold=f"within {se:g} se of 1",
        )


def _training_claims(
    networks: Networks, min_accuracy: float, min_gain: float
) -> Iterator[ClaimResult]:
    rows = networks.trained
    is_trained = rows["accuracy"] > min_accuracy
    large = rows["init"].isin(LARGE_INITS)
    trained = {norm: is_trained[large & (rows["model.norm"] == norm)] for norm in NORM_LABELS}
    points = f"{100 * min_gain:.0f} percentage points above that without normalization"
    for norm in ("mean_only", *NORMALIZATIONS):
        better = bool(trained[norm].mean() >= trained["none"].mean() + min_gain)
        claimed = norm in NORMALIZATIONS
        yield ClaimResult(
            f"{NORM_LABELS[norm]}: share of networks with weights U(0, 1) or U(-1, 1) that train",
            f"at least {points} (common advice)"
            if claimed
            else f"less than {points} (the question doubts that it helps)",
            f"{_count(trained[norm])}; without normalization {_count(trained['none'])}",
            better if claimed else not better,
            threshold=f"{'at least' if claimed else 'less than'} {100 * min_gain:g} points more",
        )
    for norm, label in NORM_LABELS.items():
        of_norm = rows["model.norm"] == norm
        by_init = {init: is_trained[of_norm & (rows["init"] == init)] for init in STYLES}
        yield ClaimResult(
            f"{label}: number of networks that train, by init",
            "no claim",
            ", ".join(f"{init} {_count(values)}" for init, values in by_init.items()),
            None,
        )


def _count(values: pd.Series) -> str:
    return f"{int(values.sum())} of {len(values)}"


def moments_figure(networks: Networks) -> Figure:
    """Draw the second moment after normalization and ReLU by layer, one panel per normalization."""
    figure = Figure(figsize=MOMENTS_SIZE, layout="constrained")
    axes = figure.subplots(1, len(NORM_LABELS), sharey=True)
    moments = networks.moments[networks.moments["quantity"] == "act_m2"]
    deepest = moments[moments["model.depth"] == moments["model.depth"].max()]
    for axis, (norm, label) in zip(axes, NORM_LABELS.items(), strict=True):
        for init, style in STYLES.items():
            rows = deepest[(deepest["model.norm"] == norm) & (deepest["init"] == init)]
            for number, (_, by_layer) in enumerate(rows.groupby("model.width")):
                axis.plot(
                    by_layer["layer"], by_layer["value"], **style, linewidth=0.7 + 0.9 * number,
                    markersize=2.5 + 2 * number, markerfacecolor="none",
                    label=init if number else None,
                )  # fmt: skip
        axis.axhline(0.5, color="0.4", linestyle=":", linewidth=0.8)
        axis.set_yscale("log")
        axis.set_title(label, fontsize="small")
        axis.minorticks_off()
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        sns.despine(ax=axis)
    axes[0].set_ylabel(r"after ReLU $\mathbb{E}[x_l^2]$" "\n(dimensionless)", fontsize="small")
    figure.supxlabel("layer $l$", fontsize="small")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, [f"{label} weights" for label in labels],
        loc="outside upper center", ncols=3, frameon=False, fontsize="small",
    )  # fmt: skip
    return figure


def accuracy_figure(networks: Networks) -> Figure:
    """Draw the test accuracy: a panel per init, a row per normalization, a column per size."""
    figure = Figure(figsize=ACCURACY_SIZE, layout="constrained")
    axes = figure.subplots(1, len(STYLES), sharey=True)
    for axis, init in zip(axes, STYLES, strict=True):
        rows = networks.trained[networks.trained["init"] == init]
        table = rows.pivot(index="model.norm", columns=SIZE_KEYS, values=["accuracy", "diverged"])
        table = table.loc[list(NORM_LABELS)].sort_index(axis=1)
        _accuracy_map(axis, table["accuracy"].astype(float), table["diverged"].astype(bool))
        axis.set_title(f"{init} weights", fontsize="small")
    axes[0].set_yticks(range(len(NORM_LABELS)), list(NORM_LABELS.values()), fontsize="small")
    bar = figure.colorbar(axes[0].images[0], ax=axes, shrink=0.8, pad=0.02)
    bar.set_label("test accuracy", fontsize="small")
    figure.supxlabel("depth x width (weight layers x channels)", fontsize="small")
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
