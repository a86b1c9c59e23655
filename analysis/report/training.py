"""Training curves of the report: loss and accuracy of each setting against the step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.style import PALETTE, escape_mathtext, use_style
from analysis.load import Results
from analysis.report.cells import Column
from analysis.report.figures import PageFigure, make_page_figure
from experiments.config.groups import SEEDS
from experiments.sweep.differences import short_label

MAX_LINES = 8  # settings in the figure
N_WINDOWS = 100  # points of a line of the training loss, each the mean over a window of steps
HEADROOM = 3  # upper end of the loss axis, in units of the largest loss at the first step
LABELS = {"test_accuracy": "test accuracy", "test_loss": "test loss"}
CAPTION = (
    "Left: training loss, mean over {window}; larger losses than 3 times the largest initial one "
    "are cut off. Right: {metric}{when}, over cells that have not diverged. A line is the median "
    "over the cells of a setting; after a cell diverges its loss counts as infinite, so a line "
    "ends when half of its cells have diverged.{selection}"
)


@dataclass(frozen=True)
class TrainingSetting:
    """Cells that differ only in seeds."""

    label: str
    group: str
    cell_ids: tuple[str, ...]


@dataclass(frozen=True)
class TrainingSection:
    """Figures of the training, or the reason why there are none (`skip_reason`)."""

    figures: Sequence[PageFigure] = ()
    skip_reason: str | None = None


def build_training_section(
    results: Results, columns: Sequence[Column], command: str
) -> TrainingSection:
    """Draw the curves of a sweep.

    Parameters
    ----------
    results
        The sweep.
    columns
        The sweep's `cell_columns`, which define its settings.
    command
        Command that writes the page.
    """
    if results.curves.empty or results.cells.empty:
        return TrainingSection(skip_reason="no cell has been trained")
    cells = results.cells.assign(cell_id=results.cells["cell_id"].astype(str)).set_index("cell_id")
    curves = results.curves.assign(cell_id=results.curves["cell_id"].astype(str))
    settings = training_settings(columns, set(curves["cell_id"]) & set(cells.index))
    if not settings:
        return TrainingSection(skip_reason="no cell has been trained")
    metric = next((key for key in LABELS if key in cells and cells[key].notna().any()), None)
    shown = order_by_score(select_settings(settings, cells), cells, metric)
    lines = {s.label: loss_line(curves, cells, s) for s in shown}
    points = {s.label: metric_line(curves, cells, s, metric) for s in shown} if metric else {}
    use_style()
    figure = draw(lines, points, metric)
    window = max(line.attrs["window"] for line in lines.values())
    only_at_end = all(len(line) <= 1 for line in points.values())
    caption = CAPTION.format(
        window="one step" if window == 1 else f"up to {window} steps",
        metric=LABELS.get(metric or "", "none"),
        when=" at the end; train.evaluate_every=N measures it during training"
        if only_at_end
        else "",
        selection=f" Shown are {len(shown)} of {len(settings)} settings: for each init (or value "
        "of the first axis) the one with the lowest final training loss."
        if len(shown) < len(settings)
        else "",
    )
    description = " ".join(_sentences(lines, points, metric))
    title = "Training loss and accuracy"
    return TrainingSection(
        [make_page_figure("training", figure, title, description, caption, command)]
    )


def training_settings(columns: Sequence[Column], trained: set[str]) -> list[TrainingSetting]:
    """Group trained cells by the values that vary, without seeds, in the order of the plan.

    The `group` of a setting is its init; if all inits are equal, its first varying value.
    """
    varying = [c for c in columns if c.role == "varies" and c.key not in SEEDS]
    ids = next((column.values for column in columns if column.role == "id"), [])
    main = next((c for c in varying if c.key == "init"), varying[0] if varying else None)
    groups: dict[tuple[str, str], list[str]] = {}
    for row, cell in enumerate(ids):
        if cell in trained:
            label = short_label({column.key: column.display(row) for column in varying})
            group = "" if main is None else main.display(row)
            groups.setdefault((label or "all cells", group), []).append(cell)
    return [TrainingSetting(*key, tuple(cells)) for key, cells in groups.items()]


def select_settings(
    settings: Sequence[TrainingSetting], cells: pd.DataFrame
) -> list[TrainingSetting]:
    """Return the settings for the figure: at most `MAX_LINES`.

    If there are more, return the best setting of each group, or the best settings if there is only
    one group. A setting is better if the median of its final training loss is lower; a cell that
    diverged or failed has an infinite loss.
    """
    if len(settings) <= MAX_LINES:
        return list(settings)
    final = cells["train_loss"].where(cells["outcome"] == "ok", np.inf).fillna(np.inf)
    ordered = sorted(settings, key=lambda s: float(final.loc[list(s.cell_ids)].median()))
    best: dict[str, TrainingSetting] = {}
    for setting in ordered:
        best.setdefault(setting.group, setting)
    chosen = list(best.values())[:MAX_LINES] if len(best) > 1 else ordered[:MAX_LINES]
    return [setting for setting in settings if setting in chosen]


def order_by_score(
    settings: Sequence[TrainingSetting], cells: pd.DataFrame, metric: str | None
) -> list[TrainingSetting]:
    """Order settings as the summary does: best mean first, settings with diverged cells last."""
    key = metric or "train_loss"
    sign = -1 if key == "test_accuracy" else 1

    def rank(setting: TrainingSetting) -> tuple[bool, float]:
        rows = cells.loc[list(setting.cell_ids)]
        mean = rows.loc[rows["outcome"] == "ok", key].mean()
        return bool((rows["outcome"] == "diverged").any()), (
            float("inf") if np.isnan(mean) else sign * float(mean)
        )

    return sorted(settings, key=rank)


def loss_line(curves: pd.DataFrame, cells: pd.DataFrame, setting: TrainingSetting) -> pd.Series:
    """Return the median over cells of the training loss, averaged over windows of steps.

    It is infinite where half of the cells have diverged.
    """
    rows = _rows(curves, setting, "train_loss")
    n_steps = 0 if rows.empty else int(rows["step"].max()) + 1
    window = max(1, n_steps // N_WINDOWS)
    last = np.minimum((rows["step"] // window + 1) * window, n_steps).rename("last")
    table = rows.groupby([last, "cell_id"])["value"].mean().unstack()
    diverged = [cell for cell in table if cells.loc[cell, "outcome"] == "diverged"]
    table[diverged] = table[diverged].fillna(np.inf)
    line = table.median(axis=1)
    line.attrs["window"] = window
    return line


def metric_line(
    curves: pd.DataFrame, cells: pd.DataFrame, setting: TrainingSetting, metric: str
) -> pd.Series:
    """Return the median of a test metric by step, over cells that have not diverged."""
    rows = _rows(curves, setting, metric)
    line = rows.groupby("step")["value"].median()
    final = cells.loc[list(setting.cell_ids), metric].median()
    if np.isfinite(final):
        losses = _rows(curves, setting, "train_loss")
        line.loc[int(losses["step"].max()) + 1] = final
    return line.sort_index()


def _rows(curves: pd.DataFrame, setting: TrainingSetting, metric: str) -> pd.DataFrame:
    return curves[(curves["metric"] == metric) & curves["cell_id"].isin(setting.cell_ids)]


def draw(
    lines: Mapping[str, pd.Series], points: Mapping[str, pd.Series], metric: str | None
) -> Figure:
    """Draw the loss, and next to it a test metric if there is one."""
    figure, axes = plt.subplots(
        1, 2 if metric else 1, figsize=(7.5 if metric else 4.0, 2.8), squeeze=False
    )
    panels: list[Axes] = list(axes[0])
    plt.close(figure)
    for color, (label, line) in zip(PALETTE, lines.items(), strict=False):
        finite = line.where(np.isfinite(line))
        panels[0].plot(finite.index, finite, color=color, label=escape_mathtext(label))
        if metric:
            point = points[label]
            panels[1].plot(point.index, point, color=color, marker="o", markersize=3)
    start = [line.iloc[0] for line in lines.values() if len(line) and np.isfinite(line.iloc[0])]
    values = pd.concat(list(lines.values()))
    if start and values[np.isfinite(values)].min() > 0:
        panels[0].set_yscale("log")
        panels[0].set_ylim(top=HEADROOM * max(start))
    panels[0].set_ylabel("training loss")
    if metric:
        panels[1].set_ylabel(LABELS[metric])
    for panel in panels:
        panel.set_xlabel("training step")
        panel.set_xlim(left=0)
        sns.despine(ax=panel)
    figure.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.tight_layout()
    return figure


def _sentences(
    lines: Mapping[str, pd.Series], points: Mapping[str, pd.Series], metric: str | None
) -> list[str]:
    """Describe each line in one sentence, as the text alternative of the figure."""
    sentences = []
    for label, line in lines.items():
        last = float(line.iloc[-1]) if len(line) else float("nan")
        text = f"{label}: training loss {'diverges' if np.isinf(last) else f'ends at {last:.3g}'}"
        if metric and len(points[label]):
            text += f", {LABELS[metric]} {float(points[label].iloc[-1]):.3g}"
        sentences.append(f"{text}.")
    return sentences
