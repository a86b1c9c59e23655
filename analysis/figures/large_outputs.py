"""Study `large_outputs`: causes of huge outputs in a CNN, alone and with each remedy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from analysis.figures.query import select
from analysis.figures.style import PALETTE
from analysis.load import Results
from analysis.predictions import predict_cell
from analysis.scoring.effects import difference, explained_share, least, per_seed, rows_where
from analysis.scoring.scored_study import ScoredStudy, Tables
from analysis.scoring.summary import CELLS
from analysis.scoring.verdict import Effect
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
MAP_SIZE, START_SIZE = (8.4, 4.3), (6.8, 3.3)  # inches
COLOR_LIMITS = (-1.0, 12.0)  # log10 of the size


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


def _growth(name: str, with_remedy: str = NOTHING) -> Effect:
    """Return log10 of a network's size over that of the healthy network with the same remedy."""
    healthy = SAME_CLASSES if name == REGRESSION else HEALTHY
    # The regression's healthy network has run alone and at the lower rate only.
    same = with_remedy if healthy == HEALTHY or with_remedy == LOWER_RATE else NOTHING
    return difference(
        "log_size",
        {"cause": name, "remedy": with_remedy},
        {"cause": healthy, "remedy": same},
    )


def _causes_beyond(cells: pd.DataFrame) -> float:
    """Return the smallest growth by a cause minus the largest growth by another suspect."""
    alone = rows_where(cells, {"remedy": NOTHING})
    sizes = alone.groupby("cause")["log_size"].mean()
    others = [name for name in OTHER_SUSPECTS if name in sizes]
    if not set(CAUSES) <= set(sizes.index) or not others:
        return float("nan")
    return float(sizes[list(CAUSES)].min() - sizes[others].max())


def _bounded(name: str, by: str) -> Effect:
    """Return whether the outputs are as small as healthy ones with a remedy, minus without it."""
    healthy = SAME_CLASSES if name == REGRESSION else HEALTHY

    def is_bounded(cells: pd.DataFrame, with_remedy: str) -> float:
        rows = rows_where(cells, {"cause": name, "remedy": with_remedy})
        limit = rows_where(cells, {"cause": healthy, "remedy": NOTHING})["log_size"].mean()
        small = rows["log_size"] <= limit + np.log10(HEALTHY_FACTOR)
        return float(small.mean()) if np.isfinite(limit) else float("nan")

    return per_seed(lambda cells: is_bounded(cells, by) - is_bounded(cells, NOTHING))


def _predicted_start(cells: pd.DataFrame) -> float:
    rows = cells[cells["log_start"].notna()]
    return explained_share(rows["log_start"], rows["log_start_predicted"])


def caption(tables: Tables) -> str:
    """Write the captions of the map and of the sizes at the start."""
    n = tables[CELLS]["seed"].nunique()
    setting = tables["setting"].iloc[0]
    return (
        "Largest outputs during training (root mean square of the logits) by cause and remedy: "
        f"geometric mean over n = {n} seeds, and in the second line the mean test accuracy (for "
        "the regression: the share of the variance that it explains). “inf”: every seed "
        "diverged; “inf in 2”: two did. Orange frame: outputs (at most 3 times) and accuracy as "
        "in the healthy network. Grey: the remedy undoes the cause, or there is nothing to cure. "
        "Lower rate: 10 times, for "
        "the large learning rate 20 times.\n\n"
        "Outputs before training (bars: range, and tick: geometric mean of "
        f"{setting['probe.draws']:.0f} draws in each of n = {n} seeds), as predicted by theory "
        f"(diamonds), and largest in {setting['train.steps']:.0f} training steps (circles: "
        "geometric mean over seeds; arrows: it diverged in some seed)."
    )


def figures(tables: Tables) -> dict[str, Figure]:
    """Draw the map of causes and remedies, and the sizes before training."""
    return {
        "large_outputs": _map(tables[CELLS]),
        "large_outputs_start": _start(tables[CELLS], tables["draws"]),
    }


def _map(cells: pd.DataFrame) -> Figure:
    present = set(cells["cause"])
    causes = [name for name in (HEALTHY, *CAUSES, *OTHER_SUSPECTS) if name in present]
    figure = Figure(figsize=MAP_SIZE, layout="constrained")
    axis = figure.subplots()
    scale = ScalarMappable(Normalize(*COLOR_LIMITS), "cividis")
    for y, name in enumerate(causes):
        for x, by in enumerate(REMEDIES):
            rows = rows_where(cells, {"cause": name, "remedy": by})
            same = SAME_CLASSES if name == REGRESSION else HEALTHY
            healthy = rows_where(cells, {"cause": same, "remedy": by})
            if healthy.empty:
                healthy = rows_where(cells, {"cause": same, "remedy": NOTHING})
            _box(axis, (x, y), rows, healthy, scale)
    axis.set_xlim(-0.5, len(REMEDIES) - 0.5)
    axis.set_ylim(len(causes) - 0.5, -0.5)
    axis.set_xticks(range(len(REMEDIES)), [fill(name, 12) for name in REMEDIES])
    axis.set_yticks(range(len(causes)), causes)
    axis.xaxis.tick_top()
    axis.tick_params(length=0, labelsize=7.5)
    axis.set_xlabel("remedy")
    axis.xaxis.set_label_position("top")
    axis.set_ylabel("cause, one at a time")
    sns.despine(ax=axis, left=True, bottom=True)
    bar = figure.colorbar(scale, ax=axis, extend="both", fraction=0.03, pad=0.01)
    bar.set_ticks([0, 4, 8, 12], labels=["1", "$10^4$", "$10^8$", "$10^{12}$"])
    bar.set_label("largest outputs (root mean square)", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def _box(
    axis: Axes,
    position: tuple[int, int],
    rows: pd.DataFrame,
    healthy: pd.DataFrame,
    scale: ScalarMappable,
) -> None:
    """Draw one cause with one remedy."""
    x, y = position
    corner = (x - 0.5, y - 0.5)
    if rows.empty:
        axis.add_patch(Rectangle(corner, 1, 1, facecolor="0.88", edgecolor="white"))
        return
    mean, accuracy = rows["log_size"].mean(), rows["accuracy"].mean()
    color = scale.to_rgba(np.array([mean]))[0]
    axis.add_patch(Rectangle(corner, 1, 1, facecolor=color, edgecolor="white", linewidth=1))
    if len(healthy) and is_healthy(rows, healthy):
        inner = (corner[0] + 0.04, corner[1] + 0.06)
        axis.add_patch(Rectangle(inner, 0.92, 0.88, fill=False, edgecolor=PALETTE[1], lw=2))
    lightness = color[:3] @ np.array([0.2126, 0.7152, 0.0722])
    axis.text(
        x, y, f"{size_text(rows['log_size'])}\n{accuracy:.0%}", ha="center", va="center",
        fontsize=7, color="black" if lightness > 0.46 else "white",
    )  # fmt: skip


def is_healthy(rows: pd.DataFrame, healthy: pd.DataFrame) -> bool:
    """Return True if sizes are healthy within a factor of 3, and accuracies within 0.1."""
    small = rows["log_size"].max() <= healthy["log_size"].max() + np.log10(HEALTHY_FACTOR)
    return bool(small and rows["accuracy"].min() >= healthy["accuracy"].mean() - 0.1)


def size_text(log_sizes: pd.Series) -> str:
    """Format the geometric mean of sizes; if some networks diverged, their number.

    >>> size_text(pd.Series([0.0, 2.0])), size_text(pd.Series([0.0, 38.5]))
    ('10', 'inf in 1')
    """
    n_diverged = int((log_sizes >= LARGEST).sum())
    if n_diverged:
        return "inf" if n_diverged == len(log_sizes) else f"inf in {n_diverged}"
    value = 10 ** float(log_sizes.mean())
    if value >= 1000:
        return f"$10^{{{np.log10(value):.0f}}}$"
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def _start(cells: pd.DataFrame, draws: pd.DataFrame) -> Figure:
    alone = rows_where(cells, {"remedy": NOTHING})
    causes = [c for c in (HEALTHY, *CAUSES, *OTHER_SUSPECTS) if c in set(alone["cause"])]
    right = float(np.ceil(alone["log_start"].max())) + 1.5
    figure = Figure(figsize=START_SIZE, layout="constrained")
    axis = figure.subplots()
    for y, name in enumerate(causes):
        rows, measured = select(alone, cause=name), select(draws, cause=name)["log_size"]
        axis.plot([measured.min(), measured.max()], [y, y], color=PALETTE[0], linewidth=3)
        axis.plot(measured.mean(), y, marker="|", color="black", markersize=9)
        axis.plot(rows["log_start_predicted"].mean(), y - 0.3, marker="D", color="black", ms=3.5)
        trained = rows["log_size"]
        if (trained >= LARGEST).any():
            axis.annotate(
                "", (right, y + 0.28), (right - 0.8, y + 0.28),
                arrowprops={"arrowstyle": "->", "color": PALETTE[1], "linewidth": 1.5},
            )  # fmt: skip
        else:
            axis.plot(trained.mean(), y + 0.28, marker="o", color=PALETTE[1], ms=4.5, mec="black")
    axis.set_yticks(range(len(causes)), causes)
    axis.set_ylim(len(causes) - 0.4, -0.7)
    axis.set_xlim(None, right)
    first = 2 * int(np.floor(axis.get_xlim()[0] / 2)) + 2
    ticks = range(first, int(right) + 1, 2)
    axis.set_xticks(list(ticks), [f"$10^{{{tick}}}$" for tick in ticks])
    axis.grid(axis="x", color="0.9", linewidth=0.6)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("outputs: root mean square of the logits")
    sns.despine(ax=axis, left=True)
    circle = {"marker": "o", "color": PALETTE[1], "mec": "black", "ms": 4.5, "linestyle": ""}
    handles = [
        Line2D([], [], color="black", marker="D", ms=3.5, linestyle="", label="predicted"),
        Line2D([], [], color=PALETTE[0], linewidth=3, label="measured before training"),
        Line2D([], [], label="largest in training", **circle),
        Line2D([], [], color=PALETTE[1], marker=">", linestyle="-", label="it diverged"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False, fontsize=7)
    return figure


STUDY = ScoredStudy(
    summarize=summarize,
    outcomes=("log_size", "log_start", "accuracy"),
    effects={
        "least_growth_by_cause": least([_growth(name) for name in CAUSES]),
        "causes_beyond_other_suspects": per_seed(_causes_beyond),
        "growth_with_final_activation": least(
            [_growth(name, ACTIVATION) for name in (*LARGE_START, *LARGE_STEPS)]
        ),
        "bounded_by_norm_clipping": least([_bounded(name, NORM_CLIP) for name in LARGE_STEPS]),
        "bounded_by_value_clipping": least([_bounded(name, VALUE_CLIP) for name in LARGE_STEPS]),
        "bounded_by_lower_rate": least([_bounded(name, LOWER_RATE) for name in LARGE_STEPS]),
        "bounded_regression": least(
            [_bounded(REGRESSION, by) for by in (XAVIER, NORM_CLIP, LOWER_RATE)]
        ),
        "growth_with_step_remedies": least(
            [
                _growth(name, by)
                for name in LARGE_START
                for by in (NORM_CLIP, VALUE_CLIP, LOWER_RATE, *SCHEDULES)
            ]
        ),
        "predicted_start": per_seed(_predicted_start),
    },
    figures=figures,
    caption=caption,
)
