"""Suspects of huge outputs in a CNN, each alone and with each remedy."""

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

from analysis.figures.ablation import NOTHING, fields, measured, starts
from analysis.figures.study import ClaimResult, Study
from analysis.figures.style import PALETTE
from analysis.load import Results
from fanin.errors import FaninError

CLAIM = (
    "Huge outputs come from the weights' scale, the input's scale, or steps that are too large; "
    "what undoes the cause cures them, and a final activation only hides them."
)
HIDES = "final activation"  # with it the first suspect is the reference
MAP = (11.0, 5.6)  # inches
BEFORE = (6.8, 3.6)
COLOURS = "cividis"  # its lightness grows evenly, so it is read in grey too
LEAST, MOST = 0.1, 1e12  # of the colour scale, a root mean square
WITHIN = 1.96  # standard deviations: 95 % of draws


def study(results: Results, criterion: Mapping[str, Any]) -> Study:
    """Say of each suspect what it does, whether theory sees it coming, and what cures it.

    Parameters
    ----------
    results
        Of the sweep `large_outputs`.
    criterion
        The suspects and remedies (`analysis.figures.ablation`), `reference`, `huge` and `cures` as
        claimed, and the bounds `factor`, `accuracy`, `explained` and `se`; the sweep's YAML says
        what each means.

    Raises
    ------
    FaninError
        A suspect alone, or a reference, was not run yet.
    """
    if results.cells.empty or results.layers.empty:
        raise FaninError(f"{results.folder.root}: no network was trained yet")
    table = outcomes(results, criterion)
    first = starts(results, table, criterion)
    cells = results.cells
    caption = (
        f"A plain CNN of {int(cells['model.depth'].iloc[0])} layers, "
        f"{int(cells['model.width'].iloc[0])} channels, ReLU, on "
        f"{int(cells['data.n_train'].iloc[0])} images of {cells['data'].mode().iloc[0]}, "
        f"{int(cells['train.steps'].iloc[0])} steps of SGD; {cells['seed'].nunique()} seeds a "
        "field. Size of the outputs: root mean square of the logits over "
        f"{int(cells['probe.size'].iloc[0])} images. Map: the largest of all seeds and probed "
        "steps (≥: a seed diverged after its last probe), in brackets what is left of it after the "
        "final activation; below it how many seeds diverged (div.), and the accuracy of the worst "
        "of the others (R²: a regression's explained share of the targets' variance). ✓: healthy, "
        "by the sweep's "
        "criterion. Hatched: the remedy takes the suspect away, so it is the healthy network (of "
        "the regression target: the same CNN asked for classes of its images). "
        f"Second figure: the same networks before training, {int(first['draws'].min())} draws of "
        "the weights each, and where training took them."
    )
    figures = {
        "large_outputs": heat_map(table),
        "large_outputs_before": before_training(first, table[table["remedy"] == NOTHING]),
    }
    return Study(CLAIM, figures, caption, tuple(_claim_results(table, first, criterion)))


def outcomes(results: Results, criterion: Mapping[str, Any]) -> pd.DataFrame:
    """A row per suspect and remedy, over all seeds.

    Returns
    -------
    pandas.DataFrame
        `suspect`, `remedy`, `kind`, `cell_ids` (`analysis.figures.ablation.Field`); `seeds`,
        `start`, `largest` and `end` (the largest over seeds), `handed_out`, `diverged` (how many),
        `accuracy`, `explained` (the worst), `huge` (in some seed) and `healthy` (in every
        seed); `each`, sizes and accuracy of all seeds, sorted.
    """
    cells = measured(results)
    found = fields(results, criterion)
    ids = {(field.suspect, field.remedy): list(field.cell_ids) for field in found}
    first = next(iter(criterion["suspects"]))
    rows = []
    for field in found:
        other = criterion.get("reference", {}).get(field.suspect)
        of = (field.suspect, other) if other else (first, HIDES)
        # What a remedy costs the healthy network is no harm that the suspect does.
        beside = ids[of] if other else ids[first, field.remedy]
        if not (ids[of] and ids[field.suspect, NOTHING] and beside):
            raise FaninError(f"{results.folder.root}: {field.suspect}, alone and healthy: not run")
        mine = cells.loc[list(field.cell_ids)]
        bound = criterion["factor"] * cells.loc[ids[of], "largest"].max()
        right = cells.loc[beside, "accuracy"].mean() - criterion["accuracy"]
        row = {"suspect": field.suspect, "remedy": field.remedy, "kind": field.kind}
        told = _over_seeds(mine, bound, right, criterion["explained"])
        rows.append({**row, "cell_ids": field.cell_ids} | told)
    return pd.DataFrame(rows)


def _over_seeds(
    cells: pd.DataFrame, bound: float, right: float, explained: float
) -> dict[str, Any]:
    answers = (cells["accuracy"] >= right) | (cells["explained"] >= explained)
    return {
        "seeds": len(cells),
        "headed": bool(cells["headed"].any()),
        **{key: cells[key].max() for key in ("start", "largest", "end", "handed_out")},
        "diverged": int(cells["diverged"].sum()),
        "accuracy": cells["accuracy"].min(),
        "explained": cells["explained"].min(),
        "huge": bool((cells["largest"] > bound).any()),
        "healthy": len(cells) > 0
        and bool((~cells["diverged"] & (cells["end"] <= bound) & answers).all()),
        "each": tuple(sorted(cells[key]) for key in ("start", "largest", "end", "accuracy")),
    }


def _claim_results(
    table: pd.DataFrame, first: pd.DataFrame, criterion: Mapping[str, Any]
) -> Iterator[ClaimResult]:
    yield from _hiding(table)
    for suspect in criterion["suspects"]:
        alone = table[(table["suspect"] == suspect) & (table["remedy"] == NOTHING)].iloc[0]
        claimed = suspect in criterion["huge"]
        yield ClaimResult(
            f"{suspect}, alone: makes the outputs huge",
            "true" if claimed else "false",
            ended(alone),
            bool(alone["huge"]) == claimed,
        )
    for suspect, claims in criterion["cures"].items():
        rows = table[(table["suspect"] == suspect) & table["kind"].isin(["own", "undone"])]
        cures = rows[rows["healthy"] & (rows["remedy"] != NOTHING)]["remedy"].tolist()
        yield ClaimResult(
            f"{suspect}: cured by", _listed(claims), _listed(cures), set(cures) == set(claims)
        )
    yield from _foreseen(first, criterion)


def _hiding(table: pd.DataFrame) -> Iterator[ClaimResult]:
    """Test what a softmax at the end changes, where the loss has one inside anyway."""
    first, remedies = table["suspect"].iloc[0], table.set_index(["suspect", "remedy"])
    bare, softmax = remedies.loc[(first, NOTHING)], remedies.loc[(first, HIDES)]
    yield ClaimResult(
        "no final activation makes the outputs huge: logits without and with a softmax at the end",
        "false: the same logits to the bit, as the loss applies a softmax in any case",
        f"{size(bare['end'])} and {size(softmax['end'])}, "
        f"accuracy {bare['accuracy']:.1%} and {softmax['accuracy']:.1%}",
        bool(bare["each"] == softmax["each"]),
    )
    hidden = table[(table["remedy"] == HIDES) & (table["kind"] == "own")].iloc[1:]
    cured = hidden[hidden["healthy"] & ~_alone(table, hidden)]
    worst = hidden.sort_values("largest").iloc[-1]
    yield ClaimResult(
        "a final activation cures some suspect that does harm",
        "false: it bounds what is seen, not the logits",
        f"cures {_listed(cured['suspect'].tolist())}; logits up to {size(worst['largest'])} "
        f"({worst['suspect']}) still come out as {size(worst['handed_out'])}",
        cured.empty,
    )


def _alone(table: pd.DataFrame, rows: pd.DataFrame) -> pd.Series:
    """Return True where a row's suspect is healthy without any remedy."""
    alone = table[table["remedy"] == NOTHING].set_index("suspect")["healthy"]
    return rows["suspect"].map(alone).astype(bool)


def _foreseen(first: pd.DataFrame, criterion: Mapping[str, Any]) -> Iterator[ClaimResult]:
    """Before training: predicted sizes beside measured ones."""
    for row in first.to_dict("records"):
        if row["like"]:
            continue
        off = abs(row["log_mean"] - row["log_predicted"]) / row["log_se"]
        yield ClaimResult(
            f"{row['suspect']}: size of the outputs before training, typical draw",
            f"{size(np.exp(row['log_predicted'] / 2))}, theory",
            f"{size(np.exp(row['log_mean'] / 2))} ({row['draws']} draws; off by {off:.1f} se)",
            bool(off <= criterion["se"]),
        )
    unseen = [row["suspect"] for row in first.to_dict("records") if row["like"]]
    yield ClaimResult(
        "invisible before training, the first outputs are the healthy network's",
        _listed(unseen),
        _listed([s for s, same in zip(first["suspect"], first["same"], strict=True) if same]),
        bool((first["same"] == (first["like"] != "")).all()),
    )


def ended(row: Mapping[str, Any]) -> str:
    """Say how a suspect with a remedy ended."""
    least = "at least" if row["diverged"] else "up to"
    word = "huge" if row["huge"] else "not huge"
    return f"{word}: {least} {size(row['largest'])}; {how_it_ended(row)}"


def _listed(names: list[str]) -> str:
    return "; ".join(names) or "none"


def size(value: float) -> str:
    """A root mean square, short.

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
    """Draw `outcomes`: rows suspects, columns remedies, the size of the outputs as colour."""
    figure = Figure(figsize=MAP, layout="constrained")
    axis = figure.subplots()
    suspects, remedies = (list(table[key].unique()) for key in ("suspect", "remedy"))
    scale = ScalarMappable(LogNorm(LEAST, MOST), COLOURS)
    for row in table.to_dict("records"):
        place = remedies.index(row["remedy"]), suspects.index(row["suspect"])
        _draw_field(axis, row, place, scale)
    axis.set_xlim(-0.5, len(remedies) - 0.5)
    axis.set_ylim(len(suspects) - 0.5, -0.5)
    axis.set_xticks(range(len(remedies)), [fill(name, 12) for name in remedies])
    axis.set_yticks(range(len(suspects)), [s.replace(": ", ":\n", 1) for s in suspects])
    axis.xaxis.tick_top()
    axis.tick_params(length=0, labelsize=7.5)
    axis.set_xlabel("remedy")
    axis.set_ylabel("suspect, switched on alone")
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


def _draw_field(
    axis: Axes, row: Mapping[str, Any], place: tuple[int, int], scale: ScalarMappable
) -> None:
    column, line = place
    corner = (column - 0.5, line - 0.5)
    if row["kind"] in ("in place", "none"):
        words = "in place\nalready" if row["kind"] == "in place" else "no\nmeaning"
        axis.text(column, line, words, ha="center", va="center", fontsize=6, color="0.5")
        return
    colour = scale.to_rgba(np.array([row["largest"]]))[0]
    axis.add_patch(Rectangle(corner, 1, 1, facecolor=colour, edgecolor="white", linewidth=1))
    if row["kind"] == "undone":
        faint = (1.0, 1.0, 1.0, 0.35)
        axis.add_patch(
            Rectangle(corner, 1, 1, fill=False, hatch="////", edgecolor=faint, linewidth=0)
        )
    if row["healthy"]:
        inner = (corner[0] + 0.04, corner[1] + 0.05)
        axis.add_patch(Rectangle(inner, 0.92, 0.9, fill=False, edgecolor="black", linewidth=2))
    lightness = colour[:3] @ np.array([0.2126, 0.7152, 0.0722])
    ink = "black" if lightness > 0.4 else "white"
    axis.text(column, line, words_of(row), ha="center", va="center", fontsize=7, color=ink)


def words_of(row: Mapping[str, Any]) -> str:
    """Text of a box: the size of the outputs, and how it ended."""
    least = "≥" if row["diverged"] else ""  # it was past the last probe that it diverged
    hidden = f" ({size(row['handed_out'])})" if row["headed"] else ""
    good = " ✓" if row["healthy"] else ""
    return f"{least}{size(row['largest'])}{hidden}\n{how_it_ended(row)}{good}"


def how_it_ended(row: Mapping[str, Any]) -> str:
    """Count the seeds that diverged, and give the score of the worst of the others."""
    told = [f"{row['diverged']}/{row['seeds']} div."] if row["diverged"] else []
    if not np.isnan(row["accuracy"]):
        told.append(f"{row['accuracy']:.0%}")
    if not np.isnan(row["explained"]):
        told.append(f"R² {row['explained']:.2f}")
    return ", ".join(told)


def before_training(first: pd.DataFrame, alone: pd.DataFrame) -> Figure:
    """Draw predicted and measured sizes before training, and where training took them."""
    figure = Figure(figsize=BEFORE, layout="constrained")
    axis = figure.subplots()
    ended = alone.set_index("suspect")
    for line, row in enumerate(first.to_dict("records")):
        centre, spread = row["log_predicted"] / 2, WITHIN * row["log_sd"] / 2
        ends = np.exp([centre - spread, centre + spread])
        axis.plot(ends, [line - 0.2] * 2, color="black", linewidth=1.0, zorder=2)
        axis.plot(np.exp(centre), line - 0.2, marker="D", color="black", markersize=4, zorder=3)
        axis.scatter(
            row["values"] ** 0.5, [line + 0.05] * row["draws"], s=12, marker="|", linewidth=0.8,
            color=PALETTE[0], zorder=3,
        )  # fmt: skip
        fate = ended.loc[row["suspect"]]
        mark = "X" if fate["diverged"] else "o"
        axis.plot(
            fate["largest"], line + 0.28, marker=mark, markersize=5, color=PALETTE[1],
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
               label="predicted: typical draw, 95 %"),
        Line2D([], [], color=PALETTE[0], marker="|", linestyle="", label="measured draws"),
        Line2D([], [], marker="o", markersize=5, label="largest in training", **training),
        Line2D([], [], marker="X", markersize=5, label="largest before it diverged", **training),
    ]  # fmt: skip
