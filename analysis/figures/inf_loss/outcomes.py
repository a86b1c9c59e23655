"""The main figure: which setting gives an inf or NaN loss, and at which step."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, product
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from analysis.figures.inf_loss.parts import init_name, input_name
from analysis.figures.study import Headline

SIZE = (7.2, 6.2)  # inches
SHADES = {"at step 0": "0.15", "later": "0.68", "never": "1.0"}
ACTIVATIONS = ("relu", "tanh")
INITS = ("N(0, 1)", "U(0, 1)", "He", "Xavier", "torch's default")
INPUTS = ("stand.", "0..255", "0..1e6")
DTYPES = ("float32", "bfloat16", "float16")
TITLES = {"mlp": "A  MLP, {} units a layer", "plain": "B  CNN, {} channels of 3 x 3"}
WRONG = "!"  # beside a step: theory had said otherwise of step 0


def when(step: float) -> str:
    """At step 0, later or never.

    Examples
    --------
    >>> when(0.0), when(3.0), when(float("nan"))
    ('at step 0', 'later', 'never')
    """
    if step == 0:
        return "at step 0"
    return "later" if step > 0 else "never"


def headlines(cells: pd.DataFrame) -> Iterator[Headline]:
    """Of each init, how many settings fail, and what is told of torch's own."""
    words = cells.assign(name=[init_name(row) for _, row in cells.iterrows()])
    for name, mine in words.groupby("name", sort=False):
        late = int((mine["bad_step"] > 0).sum())
        told = (
            f"{int(mine['at_start'].sum())} at step 0, {late} later, of {len(mine)} settings"
            f"{_where(mine)}"
        )
        if name == "torch's default":
            yield Headline(
                "torch's default init: inf or NaN loss",
                "false: 'it can't give one'; it does where the input's range is too large",
                told,
                bool(mine["bad_step"].notna().any()),
            )
        else:
            yield Headline(f"{name}: inf or NaN loss", "nothing is claimed", told, None)


def _where(mine: pd.DataFrame) -> str:
    """In which dtypes and on which inputs."""
    bad = mine[mine["bad_step"].notna()]
    if bad.empty:
        return ""
    dtypes = [name for name in DTYPES if name in set(bad["train.dtype"].astype(str))]
    inputs = {input_name(row) for _, row in bad.iterrows()}
    shown = [name for name in INPUTS if name in inputs]
    return f" ({', '.join(dtypes)}; inputs {', '.join(shown)})"


def figure(cells: pd.DataFrame) -> Figure:
    """Rows: activation and init; columns: dtype, input and depth; in each box the step."""
    drawn = Figure(figsize=SIZE, layout="constrained")
    models = [name for name in TITLES if name in set(cells["model"].astype(str))]
    axes = drawn.subplots(
        len(models), 1, squeeze=False, height_ratios=[_rows(cells, name) + 3 for name in models]
    )[:, 0]
    for axis, model in zip(axes, models, strict=True):
        mine = cells[cells["model"].astype(str) == model]
        _panel(axis, mine)
        title = TITLES[model].format(int(mine["model.width"].iloc[0]))
        axis.set_title(title, loc="left", fontsize="medium", pad=34)
    steps = int(cells["train.steps"].max())
    words = {
        "at step 0": "inf or NaN at step 0",
        "later": "later",
        "never": f"not in {steps} steps",
    }
    handles = [
        Patch(facecolor=shade, edgecolor="0.5", label=words[name]) for name, shade in SHADES.items()
    ]
    drawn.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return drawn


def _rows(cells: pd.DataFrame, model: str) -> int:
    return len(_named(cells[cells["model"].astype(str) == model]).groupby(["activation", "init"]))


def _named(cells: pd.DataFrame) -> pd.DataFrame:
    """What stands at a box's row and column, as words."""
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
    there = set(zip(named["activation"], named["init"], strict=True))
    rows = [row for row in product(ACTIVATIONS, INITS) if row in there]
    has = set(zip(named["dtype"], named["input"], named["depth"], strict=True))
    depths = sorted(named["depth"].unique())
    columns = [column for column in product(DTYPES, INPUTS, depths) if column in has]
    axis.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
    for box in named.to_dict("records"):
        x = columns.index((box["dtype"], box["input"], box["depth"]))
        y = rows.index((box["activation"], box["init"]))
        text_in_box(axis, x, y, 1.0, box["step"], WRONG if box["wrong"] else "")
    _labels(axis, rows, columns)


def text_in_box(axis: Axes, x: float, y: float, width: float, step: float, note: str = "") -> None:
    """One setting: shade and step of the first loss that is inf or NaN; a dot where none is."""
    shade = SHADES[when(step)]
    box = Rectangle((x, y), width, 1, facecolor=shade, edgecolor="0.8", linewidth=0.4)
    axis.add_patch(box)
    text = "\u00b7" if when(step) == "never" else f"{step:.0f}"
    color = "white" if when(step) == "at step 0" else "black"
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
    axis: Axes, name: str, words: list[str], y: float, linewidth: float, look: dict[str, Any]
) -> None:
    """A word over each run of columns that have it, and a line before it; `name` at the left."""
    axis.text(-0.15, y, name, ha="right", va="bottom", fontsize=6.5)
    at = 0
    for word, run in groupby(words):
        size = len(list(run))
        label = word.partition("/")[2] or word
        axis.text(
            at + size / 2,
            y,
            label,
            ha="center",
            va="bottom",
            fontsize=6.5 if size > 1 else 5.2,
            **look,
        )
        axis.axvline(at, color="black", linewidth=linewidth)
        at += size
