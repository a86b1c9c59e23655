"""The main figure: which setting gives an inf or NaN loss, and at which step."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analysis.figures.inf_loss.parts import init_name, input_name
from analysis.figures.study import Headline

SIZE = (7.2, 6.2)  # inches
SHADES = {"at step 0": "0.15", "later": "0.68", "never": "1.0"}
INITS = ("N(0, 1)", "U(0, 1)", "He", "Xavier", "torch's default")
INPUTS = ("stand.", "0..255", "0..1e6")
DTYPES = ("float32", "bfloat16", "float16")
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
    """Rows: activation and init; columns: dtype, input and depth; in each cell the step."""
    drawn = Figure(figsize=SIZE, layout="constrained")
    models = [name for name in ("mlp", "plain") if name in set(cells["model"].astype(str))]
    axes = drawn.subplots(len(models), 1, squeeze=False)[:, 0]
    names = {"mlp": "A  MLP, width {}", "plain": "B  CNN of 3x3 convolutions, {} channels"}
    for axis, model in zip(axes, models, strict=True):
        mine = cells[cells["model"].astype(str) == model]
        _panel(axis, mine)
        width = int(mine["model.width"].iloc[0])
        axis.set_title(names[model].format(width), loc="left", fontsize="small", pad=24)
    handles = [
        Patch(
            facecolor=shade,
            edgecolor="0.5",
            label=f"inf or NaN {words}"
            if words != "never"
            else f"finite for {int(cells['train.steps'].max())} steps",
        )
        for words, shade in SHADES.items()
    ]
    drawn.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return drawn


def _panel(axis: Axes, cells: pd.DataFrame) -> None:
    named = cells.assign(
        init_name=[init_name(row) for _, row in cells.iterrows()],
        input_name=[input_name(row) for _, row in cells.iterrows()],
        activation=cells["activation"].astype(str),
        dtype=cells["train.dtype"].astype(str),
        depth=cells["model.depth"].astype(int),
    )
    rows = [(a, i) for a in ("relu", "tanh") for i in INITS]
    rows = [
        row
        for row in rows
        if ((named["activation"] == row[0]) & (named["init_name"] == row[1])).any()
    ]
    depths = sorted(named["depth"].unique())
    dtypes = [d for d in DTYPES if d in set(named["dtype"])]
    inputs = [i for i in INPUTS if i in set(named["input_name"])]
    columns = [(d, i, n) for d in dtypes for i in inputs for n in depths]
    axis.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
    for _, cell in named.iterrows():
        y = rows.index((cell["activation"], cell["init_name"]))
        x = columns.index((cell["dtype"], cell["input_name"], cell["depth"]))
        _box(axis, x, y, cell)
    _labels(axis, rows, dtypes, inputs, depths)


def _box(axis: Axes, x: int, y: int, cell: pd.Series) -> None:
    step = float(cell["bad_step"])
    shade = SHADES[when(step)]
    axis.add_patch(_rectangle(x, y, shade))
    wrong = WRONG if bool(cell["at_start"]) == bool(cell["finite"]) else ""
    text = ("·" if step != step else f"{step:.0f}") + wrong
    axis.text(
        x + 0.5, y + 0.52, text, ha="center", va="center", fontsize=6.5,
        color="white" if shade < "0.5" else "black",
    )  # fmt: skip


def _rectangle(x: int, y: int, shade: str) -> Patch:
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), 1, 1, facecolor=shade, edgecolor="0.8", linewidth=0.4)


def _labels(
    axis: Axes,
    rows: list[tuple[str, str]],
    dtypes: list[str],
    inputs: list[str],
    depths: list[int],
) -> None:
    axis.set_yticks([n + 0.5 for n in range(len(rows))], [f"{a}, {i}" for a, i in rows], fontsize=7)
    count = len(dtypes) * len(inputs) * len(depths)
    axis.set_xticks([n + 0.5 for n in range(count)], depths * len(dtypes) * len(inputs), fontsize=7)
    axis.set_xlabel("depth (weight layers)", fontsize="small")
    axis.tick_params(length=0)
    for number, dtype in enumerate(dtypes):
        wide = len(inputs) * len(depths)
        axis.text(
            (number + 0.5) * wide,
            -1.15,
            dtype,
            ha="center",
            va="bottom",
            fontsize=8,
            fontweight="bold",
        )
        for place, words in enumerate(inputs):
            x = number * wide + (place + 0.5) * len(depths)
            axis.text(
                x,
                -0.15,
                f"input {words}" if len(depths) < 0 else words,
                ha="center",
                va="bottom",
                fontsize=7,
            )
            axis.axvline(number * wide + place * len(depths), color="0.4", linewidth=0.6)
        axis.axvline(number * wide, color="black", linewidth=1.2)
    half = sum(a == "relu" for a, _ in rows)
    axis.axhline(half, color="black", linewidth=1.2)
