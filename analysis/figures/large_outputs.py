"""Study `large_outputs`: suspected causes of huge outputs in a CNN, alone and with each remedy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from analysis.figures.ablation import NOTHING, combinations, initial_outputs, measure_outputs
from analysis.figures.study import ClaimResult, Study
from analysis.figures.style import PALETTE
from analysis.load import Results
from fanin.errors import FaninError

CLAIM = (
    "Huge outputs come from the scale of the weights, the scale of the input, or too large steps. "
    "Undoing the cause cures them; a final activation only hides them."
)
FINAL_ACTIVATION = "final activation"  # the first suspect with this remedy is the reference
HEAT_MAP_SIZE = (11.0, 5.6)  # inches
INITIAL_SIZE = (6.8, 3.6)
COLORMAP = "cividis"  # its lightness is monotonic, so it is readable in grayscale
COLOR_MIN, COLOR_MAX = 0.1, 1e12  # limits of the color scale, root mean square
Z = 1.96  # standard deviations in half of a 95 % interval


def study(results: Results, criterion: Mapping[str, Any]) -> Study:
    """Test for each suspect if it makes the outputs huge, if theory predicts it, and what cures it.

    Parameters
    ----------
    results
        Results of the sweep `large_outputs`.
    criterion
        `healthy`, `suspects`, `remedies`, `overrides` (see `analysis.figures.ablation`); the claims
        `reference`, `huge` and `cures`; the bounds `factor`, `accuracy`, `explained` and `se`. The
        comments in conf/sweep/large_outputs.yaml define them.

    Raises
    ------
    FaninError
        A suspect without a remedy, or its reference, has not run yet.
    """
    if results.cells.empty or results.layers.empty:
        raise FaninError(f"{results.folder.root}: no network has been trained yet; run the sweep")
    table = outcomes(results, criterion)
    first = initial_outputs(results, table, criterion)
    cells = results.cells
    caption = (
        f"Plain ReLU CNN of {int(cells['model.depth'].iloc[0])} layers, "
        f"{int(cells['model.width'].iloc[0])} channels, on {int(cells['data.n_train'].iloc[0])} "
        f"images of {cells['data'].mode().iloc[0]}, {int(cells['train.steps'].iloc[0])} steps of "
        f"SGD, {cells['seed'].nunique()} seeds per box. Size of the outputs: root mean square of "
        f"the logits over {int(cells['probe.size'].iloc[0])} images. First figure: suspected "
        "causes (suspects) in rows, remedies in columns. First line of a box: largest size over "
        "all seeds and all measured steps (≥: a seed diverged after the last measurement); in "
        "brackets, the size after the final activation. Second line: number of seeds that diverged "
        "(div.) and the worst accuracy of the other seeds (R²: share of the targets' variance that "
        "a regression explains). ✓: healthy, that is, outputs and accuracy are close to those of "
        "the healthy network in every seed (conf/sweep/large_outputs.yaml has the bounds). "
        "Hatched: the remedy undoes the suspect, so the box shows the healthy network (in the row "
        "of the regression target: the same CNN, trained to classify these images). Second figure: "
        f"the same networks before training, {int(first['draws'].min())} draws of the weights "
        "each, and their largest outputs in training."
    )
    figures = {
        "large_outputs": heat_map(table),
        "large_outputs_before": initial_figure(first, table[table["remedy"] == NOTHING]),
    }
    return Study(CLAIM, figures, caption, tuple(_claim_results(table, first, criterion)))


def outcomes(results: Results, criterion: Mapping[str, Any]) -> pd.DataFrame:
    """Summarize each suspect with each remedy over all seeds.

    Returns
    -------
    pandas.DataFrame
        One row per combination. `suspect`, `remedy`, `kind`, `cell_ids`
        (`analysis.figures.ablation.Combination`); `seeds`: number of seeds; `has_head`; `start`,
        `largest`, `end`, `output`: largest value over seeds; `diverged`: number of seeds that
        diverged; `accuracy`, `explained`: smallest value over seeds; `huge`: True if any seed has
        huge outputs; `healthy`: True if all seeds are healthy; `per_seed`: root mean squares and
        accuracies of all seeds, sorted.
    """
    cells = measure_outputs(results)
    pairs = combinations(results, criterion)
    ids = {(pair.suspect, pair.remedy): list(pair.cell_ids) for pair in pairs}
    first = next(iter(criterion["suspects"]))
    rows = []
    for pair in pairs:
        cure = criterion.get("reference", {}).get(pair.suspect)
        reference = ids[(pair.suspect, cure) if cure else (first, FINAL_ACTIVATION)]
        # A remedy may lower the healthy network's accuracy too, so compare accuracies with those of
        # the healthy network with the same remedy.
        same_remedy = reference if cure else ids[first, pair.remedy]
        if not (reference and ids[pair.suspect, NOTHING] and same_remedy):
            raise FaninError(
                f"{results.folder.root}: cells of the cause '{pair.suspect}', or of the healthy"
                " network, are missing; run the rest of the sweep"
            )
        bound = criterion["factor"] * cells.loc[reference, "largest"].max()
        min_accuracy = cells.loc[same_remedy, "accuracy"].mean() - criterion["accuracy"]
        own_cells = cells.loc[list(pair.cell_ids)]
        rows.append(
            {"suspect": pair.suspect, "remedy": pair.remedy, "kind": pair.kind}
            | {"cell_ids": pair.cell_ids}
            | _over_seeds(own_cells, bound, min_accuracy, criterion["explained"])
        )
    return pd.DataFrame(rows)


def _over_seeds(
    cells: pd.DataFrame, bound: float, min_accuracy: float, min_explained: float
) -> dict[str, Any]:
    correct = (cells["accuracy"] >= min_accuracy) | (cells["explained"] >= min_explained)
    return {
        "seeds": len(cells),
        "has_head": bool(cells["has_head"].any()),
        **{key: cells[key].max() for key in ("start", "largest", "end", "output")},
        "diverged": int(cells["diverged"].sum()),
        "accuracy": cells["accuracy"].min(),
        "explained": cells["explained"].min(),
        "huge": bool((cells["largest"] > bound).any()),
        "healthy": len(cells) > 0
        and bool((~cells["diverged"] & (cells["end"] <= bound) & correct).all()),
        "per_seed": tuple(sorted(cells[key]) for key in ("start", "largest", "end", "accuracy")),
    }


def _claim_results(
    table: pd.DataFrame, first: pd.DataFrame, criterion: Mapping[str, Any]
) -> Iterator[ClaimResult]:
    yield from _final_activation_claims(table)
    for suspect in criterion["suspects"]:
        alone = table[(table["suspect"] == suspect) & (table["remedy"] == NOTHING)].iloc[0]
        claimed = suspect in criterion["huge"]
        yield ClaimResult(
            f"'{suspect}' without remedy: size of the outputs",
            "huge" if claimed else "not huge",
            describe_outcome(alone),
            bool(alone["huge"]) == claimed,
            threshold=f"huge: above {criterion['factor']:g} times the healthy network",
        )
    for suspect, claims in criterion["cures"].items():
        rows = table[(table["suspect"] == suspect) & table["kind"].isin(["distinct", "reverted"])]
        cures = rows[rows["healthy"] & (rows["remedy"] != NOTHING)]["remedy"].tolist()
        yield ClaimResult(
            f"'{suspect}': remedies that cure it",
            _join(claims),
            _join(cures),
            set(cures) == set(claims),
            threshold="exactly these",
        )
    yield from _initial_claims(first, criterion)


def _final_activation_claims(table: pd.DataFrame) -> Iterator[ClaimResult]:
    """Test whether a final activation changes the logits or cures any suspect."""
    first, remedies = table["suspect"].iloc[0], table.set_index(["suspect", "remedy"])
    bare, softmax = remedies.loc[(first, NOTHING)], remedies.loc[(first, FINAL_ACTIVATION)]
    yield ClaimResult(
        "logits without and with a final softmax",
        "bitwise equal, because the loss applies a softmax in both cases",
        f"size {size(bare['end'])} and {size(softmax['end'])}, "
        f"accuracy {bare['accuracy']:.1%} and {softmax['accuracy']:.1%}",
        bool(bare["per_seed"] == softmax["per_seed"]),
        threshold="equal in every bit",
    )
    is_final = (table["remedy"] == FINAL_ACTIVATION) & (table["kind"] == "distinct")
    hidden = table[is_final].iloc[1:]
    cured = hidden[hidden["healthy"] & ~_healthy_without_remedy(table, hidden)]
    worst = hidden.sort_values("largest").iloc[-1]
    yield ClaimResult(
        "suspects that a final activation cures",
        "none, because it bounds the output, not the logits",
        f"{_join(cured['suspect'].tolist())}. The largest logits are those of "
        f"'{worst['suspect']}': {size(worst['largest'])}, with outputs of {size(worst['output'])} "
        "after the activation",
        cured.empty,
        threshold="0 suspects",
    )


def _healthy_without_remedy(table: pd.DataFrame, rows: pd.DataFrame) -> pd.Series:
    """Return True where a row's suspect is healthy without any remedy."""
    alone = table[table["remedy"] == NOTHING].set_index("suspect")["healthy"]
    return rows["suspect"].map(alone).astype(bool)


def _initial_claims(first: pd.DataFrame, criterion: Mapping[str, Any]) -> Iterator[ClaimResult]:
    """Compare the predicted and measured root mean square of the outputs before training."""
    for row in first.to_dict("records"):
        if row["shares_prediction_of"]:
            continue
        deviation = abs(row["log_mean"] - row["log_predicted"]) / row["log_se"]
        yield ClaimResult(
            f"'{row['suspect']}': size of the outputs before training, geometric mean over draws",
            f"{size(np.exp(row['log_predicted'] / 2))} (theory)",
            f"{size(np.exp(row['log_mean'] / 2))} ({row['draws']} draws; "
            f"{deviation:.1f} standard errors from the prediction)",
            bool(deviation <= criterion["se"]),
            threshold=f"within {criterion['se']:g} se",
        )
    unseen = [row["suspect"] for row in first.to_dict("records") if row["shares_prediction_of"]]
    yield ClaimResult(
        "suspects that do not change the outputs before training",
        _join(unseen),
        _join([s for s, same in zip(first["suspect"], first["same"], strict=True) if same]),
        bool((first["same"] == (first["shares_prediction_of"] != "")).all()),
        threshold="exactly these",
    )


def describe_outcome(row: Mapping[str, Any]) -> str:
    """Describe the largest outputs and the outcome of one row of `outcomes`."""
    relation = "at least" if row["diverged"] else "up to"
    category = "huge" if row["huge"] else "not huge"
    parts = [f"{row['diverged']} of {row['seeds']} seeds diverged"] if row["diverged"] else []
    if not np.isnan(row["accuracy"]):
        parts.append(f"accuracy {row['accuracy']:.0%}")
    if not np.isnan(row["explained"]):
        parts.append(f"R² {row['explained']:.2f}")
    return f"{category}: {relation} {size(row['largest'])}; {', '.join(parts)}"


def _join(names: list[str]) -> str:
    return "; ".join(names) or "none"


def size(value: float) -> str:
    """Format a root mean square with one to three digits.

    >>> [size(v) for v in (0.0312, 5.04, 74.2, 118.0, 43000.0, 2e17)]
    ['0.031', '5', '74', '118', '4e4', '2e17']
    """
    if not np.isfinite(value):
        return "-"
    if value < 999.5:
        return f"{value:.2g}" if value < 99.5 else f"{value:.0f}"
    digit, power = f"{value:.0e}".split("e")
    return f"{digit}e{int(power)}"


def heat_map(table: pd.DataFrame) -> Figure:
    """Draw `outcomes`: a row per suspect, a column per remedy, output size as color."""
    figure = Figure(figsize=HEAT_MAP_SIZE, layout="constrained")
    axis = figure.subplots()
    suspects, remedies = (list(table[key].unique()) for key in ("suspect", "remedy"))
    scale = ScalarMappable(LogNorm(COLOR_MIN, COLOR_MAX), COLORMAP)
    for row in table.to_dict("records"):
        position = remedies.index(row["remedy"]), suspects.index(row["suspect"])
        _draw_cell(axis, row, position, scale)
    axis.set_xlim(-0.5, len(remedies) - 0.5)
    axis.set_ylim(len(suspects) - 0.5, -0.5)
    axis.set_xticks(range(len(remedies)), [fill(name, 12) for name in remedies])
    axis.set_yticks(range(len(suspects)), [s.replace(": ", ":\n", 1) for s in suspects])
    axis.xaxis.tick_top()
    axis.tick_params(length=0, labelsize=7.5)
    axis.set_xlabel("remedy")
    axis.set_ylabel("suspect, one at a time")
    sns.despine(ax=axis, left=True, bottom=True)
    bar = figure.colorbar(scale, ax=axis, extend="both", fraction=0.03, pad=0.01)
    bar.set_label("largest outputs: root mean square of the logits (dimensionless)", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    handles = [
        Patch(facecolor="white", edgecolor="black", linewidth=2, label="✓ healthy in every seed"),
        Patch(facecolor="white", edgecolor="0.4", hatch="////", label="remedy undoes the suspect"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure


def _draw_cell(
    axis: Axes, row: Mapping[str, Any], position: tuple[int, int], scale: ScalarMappable
) -> None:
    x, y = position
    corner = (x - 0.5, y - 0.5)
    if row["kind"] in ("redundant", "absent"):
        text = "already\napplied" if row["kind"] == "redundant" else "not\napplicable"
        axis.text(x, y, text, ha="center", va="center", fontsize=6, color="0.5")
        return
    color = scale.to_rgba(np.array([row["largest"]]))[0]
    axis.add_patch(Rectangle(corner, 1, 1, facecolor=color, edgecolor="white", linewidth=1))
    if row["kind"] == "reverted":
        faint = (1.0, 1.0, 1.0, 0.35)
        axis.add_patch(
            Rectangle(corner, 1, 1, fill=False, hatch="////", edgecolor=faint, linewidth=0)
        )
    if row["healthy"]:
        inner = (corner[0] + 0.04, corner[1] + 0.05)
        axis.add_patch(Rectangle(inner, 0.92, 0.9, fill=False, edgecolor="black", linewidth=2))
    lightness = color[:3] @ np.array([0.2126, 0.7152, 0.0722])
    text_color = "black" if lightness > 0.4 else "white"
    axis.text(x, y, cell_text(row), ha="center", va="center", fontsize=7, color=text_color)


def cell_text(row: Mapping[str, Any]) -> str:
    """Return the text of a box: the size of the outputs and the outcome."""
    at_least = "≥" if row["diverged"] else ""  # it diverged after the last probed step
    output = f" ({size(row['output'])})" if row["has_head"] else ""
    check = " ✓" if row["healthy"] else ""
    return f"{at_least}{size(row['largest'])}{output}\n{short_outcome(row)}{check}"


def short_outcome(row: Mapping[str, Any]) -> str:
    """Return the number of seeds that diverged and the worst score of the other seeds."""
    parts = [f"{row['diverged']}/{row['seeds']} div."] if row["diverged"] else []
    if not np.isnan(row["accuracy"]):
        parts.append(f"{row['accuracy']:.0%}")
    if not np.isnan(row["explained"]):
        parts.append(f"R² {row['explained']:.2f}")
    return ", ".join(parts)


def initial_figure(first: pd.DataFrame, alone: pd.DataFrame) -> Figure:
    """Draw the root mean square of the outputs: predicted, measured, and largest in training."""
    figure = Figure(figsize=INITIAL_SIZE, layout="constrained")
    axis = figure.subplots()
    trained = alone.set_index("suspect")
    for y, row in enumerate(first.to_dict("records")):
        centre, spread = row["log_predicted"] / 2, Z * row["log_sd"] / 2
        ends = np.exp([centre - spread, centre + spread])
        axis.plot(ends, [y - 0.2] * 2, color="black", linewidth=1.0, zorder=2)
        axis.plot(np.exp(centre), y - 0.2, marker="D", color="black", markersize=4, zorder=3)
        axis.scatter(
            row["values"] ** 0.5, [y + 0.05] * row["draws"], s=12, marker="|", linewidth=0.8,
            color=PALETTE[0], zorder=3,
        )  # fmt: skip
        outcome = trained.loc[row["suspect"]]
        marker = "X" if outcome["diverged"] else "o"
        axis.plot(
            outcome["largest"], y + 0.28, marker=marker, markersize=5, color=PALETTE[1],
            markeredgecolor="black", markeredgewidth=0.5,
        )  # fmt: skip
    axis.set_xscale("log")
    axis.set_yticks(range(len(first)), list(first["suspect"]))
    axis.set_ylim(len(first) - 0.5, -0.6)
    axis.grid(axis="x", color="0.9", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("outputs: root mean square of the logits (dimensionless)")
    sns.despine(ax=axis, left=True)
    figure.legend(handles=_legend(), loc="outside upper center", ncols=4, frameon=False, fontsize=7)
    return figure


def _legend() -> list[Line2D]:
    training = {"color": PALETTE[1], "markeredgecolor": "black", "linestyle": ""}
    return [
        Line2D([], [], color="black", marker="D", markersize=4, linewidth=1.0,
               label="predicted: median, 95 % interval"),
        Line2D([], [], color=PALETTE[0], marker="|", linestyle="", label="measured draws"),
        Line2D([], [], marker="o", markersize=5, label="largest in training", **training),
        Line2D([], [], marker="X", markersize=5, label="largest before divergence", **training),
    ]  # fmt: skip
