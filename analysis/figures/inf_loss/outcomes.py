"""First step with an inf or NaN loss: by setting, by clipping, and in a 10-50-1 regression MLP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby, product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from analysis.figures.inf_loss.parts import init_name, input_name, part_cells, share
from analysis.figures.query import initial_sharpness
from analysis.figures.study import ClaimResult
from analysis.load import Results

OUTCOME_SIZE = (7.2, 6.2)  # inches
SHADES = {"at step 0": "0.15", "later": "0.68", "never": "1.0"}
ACTIVATIONS = ("relu", "tanh")
INITS = ("N(0, 1)", "U(0, 1)", "He", "Xavier", "PyTorch default")
INPUTS = ("std", "0..255", "0..1e6")
DTYPES = ("float32", "bfloat16", "float16")
TITLES = {"mlp": "A  MLP, {} units per layer", "plain": "B  CNN, 3 x 3 kernels, {} channels"}
MISPREDICTED = "!"  # marks a setting for which theory predicts step 0 wrongly
CLIPS = {"none": "no clipping", "norm": "gradient norm <= 1", "value": "gradient entries <= 1"}
# Config keys of a setting, without clipping.
SETTING_KEYS = [
    *("model", "model.depth", "model.width", "activation", "init", "train.dtype", "train.steps"),
    *("scaling", "scaling.scale", "optim.lr", "data.corrupt.kind", "data.corrupt.share"),
    *("data.noise", "loss", "seed"),
]
REGRESSION_SIZE = (7.0, 3.9)  # inches


def failure_time(step: float) -> str:
    """Classify the first step with a non-finite loss.

    Examples
    --------
    >>> failure_time(0.0), failure_time(3.0), failure_time(float("nan"))
    ('at step 0', 'later', 'never')
    """
    if step == 0:
        return "at step 0"
    return "later" if step > 0 else "never"


def outcome_claims(cells: pd.DataFrame) -> Iterator[ClaimResult]:
    """Count settings with an inf or NaN loss by init; test a claim on PyTorch's default init."""
    named = cells.assign(name=[init_name(row) for _, row in cells.iterrows()])
    for name, rows in named.groupby("name", sort=False):
        later = int((rows["bad_step"] > 0).sum())
        counts = (
            f"{int(rows['at_start'].sum())} at step 0 and {later} later, of {len(rows)} settings"
            f"{_failing_conditions(rows)}"
        )
        if name == "PyTorch default":
            yield ClaimResult(
                "PyTorch default init: settings with an inf or NaN loss",
                "some, if the input range is too large (common claim: none)",
                counts,
                bool(rows["bad_step"].notna().any()),
                threshold="at least one",
            )
        else:
            yield ClaimResult(
                f"{name} init: settings with an inf or NaN loss", "no claim", counts, None
            )


def _failing_conditions(rows: pd.DataFrame) -> str:
    """Return the dtypes and the inputs of the settings with an inf or NaN loss."""
    bad = rows[rows["bad_step"].notna()]
    if bad.empty:
        return ""
    dtypes = [name for name in DTYPES if name in set(bad["train.dtype"].astype(str))]
    inputs = {input_name(row) for _, row in bad.iterrows()}
    shown = [name for name in INPUTS if name in inputs]
    return f". Their dtypes: {', '.join(dtypes)}; their inputs: {', '.join(shown)}"


def outcome_figure(cells: pd.DataFrame) -> Figure:
    """Draw a box per setting: rows by activation and init, columns by dtype, input and depth."""
    figure = Figure(figsize=OUTCOME_SIZE, layout="constrained")
    models = [name for name in TITLES if name in set(cells["model"].astype(str))]
    axes = figure.subplots(
        len(models), 1, squeeze=False, height_ratios=[_rows(cells, name) + 3 for name in models]
    )[:, 0]
    for axis, model in zip(axes, models, strict=True):
        rows = cells[cells["model"].astype(str) == model]
        _panel(axis, rows)
        title = TITLES[model].format(int(rows["model.width"].iloc[0]))
        axis.set_title(title, loc="left", fontsize="medium", pad=34)
    steps = int(cells["train.steps"].max())
    labels = {
        "at step 0": "inf or NaN at step 0",
        "later": "later",
        "never": f"not in {steps} steps",
    }
    handles = [
        Patch(facecolor=shade, edgecolor="0.5", label=labels[name])
        for name, shade in SHADES.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _rows(cells: pd.DataFrame, model: str) -> int:
    return len(_named(cells[cells["model"].astype(str) == model]).groupby(["activation", "init"]))


def _named(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the row and column labels of each cell's box."""
    return pd.DataFrame(
        {
            "activation": cells["activation"].astype(str),
            "init": [init_name(row) for _, row in cells.iterrows()],
            "dtype": cells["train.dtype"].astype(str),
            "input": [input_name(row) for _, row in cells.iterrows()],
            "depth": cells["model.depth"].astype(int),
            "step": cells["bad_step"],
            "wrong": cells["at_start"] == cells["finite"],
        }
    )


def _panel(axis: Axes, cells: pd.DataFrame) -> None:
    named = _named(cells)
    row_keys = set(zip(named["activation"], named["init"], strict=True))
    rows = [row for row in product(ACTIVATIONS, INITS) if row in row_keys]
    column_keys = set(zip(named["dtype"], named["input"], named["depth"], strict=True))
    depths = sorted(named["depth"].unique())
    columns = [column for column in product(DTYPES, INPUTS, depths) if column in column_keys]
    axis.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
    for box in named.to_dict("records"):
        x = columns.index((box["dtype"], box["input"], box["depth"]))
        y = rows.index((box["activation"], box["init"]))
        text_in_box(axis, x, y, 1.0, box["step"], MISPREDICTED if box["wrong"] else "")
    _labels(axis, rows, columns)


def text_in_box(axis: Axes, x: float, y: float, width: float, step: float, note: str = "") -> None:
    """Draw a setting's box: its first step with an inf or NaN loss, or a dot if there is none."""
    shade = SHADES[failure_time(step)]
    box = Rectangle((x, y), width, 1, facecolor=shade, edgecolor="0.8", linewidth=0.4)
    axis.add_patch(box)
    text = "\u00b7" if failure_time(step) == "never" else f"{step:.0f}"
    color = "white" if failure_time(step) == "at step 0" else "black"
    axis.text(
        x + width / 2, y + 0.52, text + note, ha="center", va="center", fontsize=6.5, color=color
    )


def _labels(axis: Axes, rows: list[tuple[str, str]], columns: list[tuple[str, str, int]]) -> None:
    names = [f"{activation}, {init}" for activation, init in rows]
    axis.set_yticks([n + 0.5 for n in range(len(rows))], names, fontsize=7)
    depths = [str(depth) for _, _, depth in columns]
    axis.set_xticks([n + 0.5 for n in range(len(columns))], depths, fontsize=7)
    axis.set_xlabel("depth (weight layers)", fontsize="small")
    axis.tick_params(length=0)
    last = rows[0][0]
    for y, (activation, _) in enumerate(rows):
        if activation != last:
            axis.axhline(y, color="black", linewidth=1.2)
        last = activation
    _brackets(axis, "dtype", [dtype for dtype, _, _ in columns], -0.95, 1.2, {"fontweight": "bold"})
    _brackets(axis, "input", [f"{dtype}/{name}" for dtype, name, _ in columns], -0.15, 0.6, {})


def _brackets(
    axis: Axes, name: str, labels: list[str], y: float, linewidth: float, style: dict[str, Any]
) -> None:
    """Label each group of adjacent equal columns; draw a line before it, and `name` at the left."""
    axis.text(-0.15, y, name, ha="right", va="bottom", fontsize=6.5)
    x = 0
    for label, run in groupby(labels):
        size = len(list(run))
        text = label.partition("/")[2] or label
        axis.text(
            x + size / 2,
            y,
            text,
            ha="center",
            va="bottom",
            fontsize=6.5 if size > 1 else 5.2,
            **style,
        )
        axis.axvline(x, color="black", linewidth=linewidth)
        x += size


def by_clip(results: Results) -> pd.DataFrame:
    """Return the first step with an inf or NaN loss by clip option.

    Only settings that ran with all clip options are included.
    """
    parts = [
        part_cells(results, part) for part in ("settings", "clipped", "bad data", "regression")
    ]
    cells = pd.concat(parts, ignore_index=True)
    # As objects, so that a missing value becomes a string and `groupby` keeps its row.
    keys = [cells[key].astype(object).map(str) for key in SETTING_KEYS]
    groups = cells.groupby([*keys, cells["clip"].astype(str)])["bad_step"]
    counts = groups.size().unstack().reindex(columns=list(CLIPS))
    return groups.min().unstack().reindex(columns=list(CLIPS))[counts.notna().all(axis=1)]


def clipping_claims(table: pd.DataFrame) -> Iterator[ClaimResult]:
    """Test clipping on settings that fail at step 0, and on those that fail later."""
    start, later = table[table["none"] == 0], table[table["none"] > 0]
    has_nan = later.index.get_level_values("data.corrupt.kind") == "missing"
    has_nan &= later.index.get_level_values("data.corrupt.share").astype(float) > 0
    unaffected = {
        "the loss is inf or NaN at step 0": start,
        "a later batch contains a missing value": later[has_nan],
    }
    for condition, rows in unaffected.items():
        same = (rows["norm"] == rows["none"]) & (rows["value"] == rows["none"])
        yield ClaimResult(
            f"clipping, if {condition}",
            "does not help: the loss is computed before the gradient",
            f"the loss fails at the same step with and without clipping, in "
            f"{share(int(same.sum()), len(same))} settings",
            bool(same.all()) if len(rows) else None,
            threshold="the same step in every setting",
        )
    too_large = later[~has_nan]
    finite = {name: int(too_large[name].isna().sum()) for name in ("norm", "value")}
    yield ClaimResult(
        "clipping, if a step that is too large makes a later loss inf or NaN",
        "can help",
        f"the loss stays finite with clip=norm in {share(finite['norm'], len(too_large))} "
        f"settings, with clip=value in {share(finite['value'], len(too_large))}",
        bool(max(finite.values()) > 0) if len(too_large) else None,
        threshold="finite in at least one setting",
    )


def regression_claims(results: Results, criterion: Mapping[str, Any]) -> Iterator[ClaimResult]:
    """Test at which learning rates (times the curvature) the 10-50-1 regression MLP diverges."""
    cells = part_cells(results, "regression")
    unclipped = cells[(cells["clip"].astype(str) == "none") & (cells["train.dtype"] == "float32")]
    x = _lr_times_curvature(results, unclipped)
    bad, (low, high) = unclipped["bad_step"].notna().to_numpy(), criterion["stable"]
    below, above = x < low, x > high
    yield ClaimResult(
        f"10-50-1 regression with mse: settings with an inf or NaN loss at a learning rate below "
        f"{low:g} / lambda_0",
        "none",
        f"{share(int((bad & below).sum()), int(below.sum()))} settings",
        not (bad & below).any(),
        threshold="0 settings",
    )
    parts = []
    for name in unclipped["activation"].astype(str).unique():
        mask = above & (unclipped["activation"].astype(str) == name).to_numpy()
        parts.append(f"{name} {share(int((bad & mask).sum()), int(mask.sum()))}")
    yield ClaimResult(
        f"10-50-1 regression with mse: settings with an inf or NaN loss at a learning rate above "
        f"{high:g} / lambda_0",
        "all",
        f"{', '.join(parts)} settings",
        bool(bad[above].all()) if above.any() else None,
        threshold="all",
    )
    unit_size = unclipped[(unclipped["scaling.scale"] == 1) & (unclipped["data.noise"] < 1)]
    finite = int(unit_size["bad_step"].isna().sum())
    yield ClaimResult(
        "10-50-1 regression, inputs and targets with standard deviation 1",
        "no claim",
        f"the loss stays finite in {share(finite, len(unit_size))} settings",
        None,
    )
    half = cells[cells["train.dtype"] == "float16"]
    start = half[half["at_start"]]
    scales = sorted(start["scaling.scale"].unique())
    yield ClaimResult(
        "10-50-1 regression in float16, PyTorch default init: settings with an inf loss at step 0",
        "no claim. The loss is inf if an output is 256 or more from its target, because the "
        "square is above 65,504",
        f"{share(len(start), len(half))} settings; standard deviation of their inputs: "
        f"{', '.join(f'{scale:g}' for scale in scales) or 'none'}",
        None,
    )


def _lr_times_curvature(results: Results, cells: pd.DataFrame) -> np.ndarray:
    curvature = initial_sharpness(results.layers)
    return (cells["optim.lr"] * cells["cell_id"].astype(str).map(curvature)).to_numpy(float)


def regression_figure(results: Results) -> Figure:
    """Draw the first step with an inf or NaN loss by learning rate and input scale.

    Columns differ in clipping, rows in the target.
    """
    cells = part_cells(results, "regression")
    cells = cells[cells["train.dtype"] == "float32"]
    figure = Figure(figsize=REGRESSION_SIZE, layout="constrained")
    noises = sorted(cells["data.noise"].unique())
    clips = [name for name in CLIPS if name in set(cells["clip"].astype(str))]
    axes = figure.subplots(len(noises), len(clips), sharex=True, sharey=True, squeeze=False)
    for row, noise in zip(axes, noises, strict=True):
        for axis, clip in zip(row, clips, strict=True):
            rows = cells[(cells["data.noise"] == noise) & (cells["clip"].astype(str) == clip)]
            _regression_panel(axis, rows)
            sd = (1 + noise**2) ** 0.5
            axis.set_title(f"{CLIPS[clip]}\nsd of targets: {sd:.0f}", fontsize="small")
    figure.supxlabel("learning rate (left half of a box: ReLU, right: tanh)", fontsize="small")
    figure.supylabel("standard deviation of inputs", fontsize="small")
    return figure


def _regression_panel(axis: Axes, cells: pd.DataFrame) -> None:
    scales, rates = sorted(cells["scaling.scale"].unique()), sorted(cells["optim.lr"].unique())
    for cell in cells.to_dict("records"):
        side = 0.0 if str(cell["activation"]) == "relu" else 0.5
        x, y = rates.index(cell["optim.lr"]) + side, scales.index(cell["scaling.scale"])
        text_in_box(axis, x, y, 0.5, float(cell["bad_step"]))
    for number in range(len(rates) + 1):
        axis.axvline(number, color="0.4", linewidth=0.8)
    axis.set(xlim=(0, len(rates)), ylim=(0, len(scales)))
    axis.set_xticks([n + 0.5 for n in range(len(rates))], [f"{rate:g}" for rate in rates])
    axis.set_yticks([n + 0.5 for n in range(len(scales))], [f"{scale:g}" for scale in scales])
    axis.tick_params(length=0, labelsize=7)
