"""From He's number to the measured one, layer by layer: a bar for each assumption lifted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.figures.style import PALETTE, RUNG_LINES
from fanin.theory.explain import FORWARD, STEPS, Explanation

WIDTH, HEIGHT = 6.8, 2.0  # inches: of the figure, and of one network
SHARE = 0.8  # of a layer's place that its bars take
LOOKS: dict[str, dict[str, Any]] = {  # told apart in grey by their hatches
    "activation": {"facecolor": PALETTE[4], "hatch": "----"},
    "weight mean": {"facecolor": PALETTE[5], "hatch": "++++"},
    "biases": {"facecolor": PALETTE[1], "hatch": "////"},
    "stride": {"facecolor": PALETTE[6], "hatch": "xxxx"},
    "real data": {"facecolor": PALETTE[2], "hatch": "\\\\\\\\"},
    "padding": {"facecolor": PALETTE[0], "hatch": ""},
    "pooling": {"facecolor": PALETTE[8], "hatch": "...."},
    "width": {"facecolor": PALETTE[7], "hatch": "||||"},
    "rest": {"facecolor": "white", "hatch": ""},
}
NOTHING = 0.02  # a factor nearer to 1 than that, in all layers and networks, is no bar


def waterfall(networks: Mapping[str, Explanation]) -> Figure:
    """Draw the second moment of each layer's pre-activations as a product of factors.

    Parameters
    ----------
    networks
        Explanations by what to call their networks, a row each.
    """
    shown = steps_that_matter(networks.values())
    rows = len(networks)
    figure = Figure(figsize=(WIDTH, HEIGHT * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, 1, squeeze=False)[:, 0]
    for axis, (name, explanation) in zip(axes, networks.items(), strict=True):
        _network(axis, explanation, shown)
        axis.set_title(name, loc="left", fontsize="small")
    figure.supylabel(r"pre-activation $\mathbb{E}[y_l^2]$ (dimensionless)", fontsize="small")
    axes[-1].set_xlabel("weight layer $l$", fontsize="small")
    handles = [
        Line2D([], [], **{**RUNG_LINES["he"], "label": "He's product formula"}),
        *(Patch(**_look(step), label=step) for step in shown),
        Line2D([], [], color="black", marker="o", markersize=3, linestyle="", label="measured"),
    ]
    figure.legend(
        handles=handles, loc="outside upper center", ncols=5, frameon=False, fontsize="x-small"
    )
    return figure


def steps_that_matter(networks: Iterable[Explanation]) -> list[str]:
    """The steps that change something anywhere; what no theory accounts for is always shown."""
    factors = pd.concat([each.factors(FORWARD) for each in networks])
    moved = factors.apply(lambda column: np.abs(np.log(column)).max() > np.log1p(NOTHING))
    return [step for step in STEPS if step == "rest" or moved[step]]


def times(factor: float) -> str:
    """A factor for people.

    >>> times(0.834), times(2400.0), times(5.2e10)
    ('×0.83', '×2,400', '×5e10')
    """
    if factor < 1e5:
        return f"×{float(f'{factor:.2g}'):,g}"
    digit, power = f"{factor:.0e}".split("e")
    return f"×{digit}e{int(power)}"


def _look(step: str) -> dict[str, Any]:
    return {**LOOKS[step], "edgecolor": "black", "linewidth": 0.4}


def _network(axis: Axes, explanation: Explanation, shown: Sequence[str]) -> None:
    ends = explanation.ends[explanation.ends.quantity == FORWARD].set_index("layer_name")
    factors = explanation.factors(FORWARD)
    bar = SHARE / len(shown)
    axis.set_yscale("log")
    for place, (name, row) in enumerate(factors.iterrows()):
        level, left = float(ends.he[name]), place - SHARE / 2
        axis.plot([left - bar / 2, left], [level, level], color=RUNG_LINES["he"]["color"])
        for step in STEPS:
            after = level * row[step]
            if step in shown:
                low, high = min(level, after), max(level, after)
                axis.bar(left, high - low, bar, low, align="edge", **_look(step))
                left += bar
            level = after
        end = ends.loc[name]
        error = [[end.measured * (1 - np.exp(-end.log_se))], [end.measured * np.expm1(end.log_se)]]
        axis.errorbar(left + bar / 2, end.measured, yerr=error, fmt="ko", ms=2.5, lw=1)
        axis.annotate(
            times(end.measured / end.he), (place, 1), xycoords=("data", "axes fraction"),
            ha="center", va="top", fontsize="x-small",
        )  # fmt: skip
    axis.plot(range(len(ends)), ends.he, **RUNG_LINES["he"], linewidth=1)
    levels = factors.cumprod(axis=1).mul(ends.he, axis=0).assign(he=ends.he).to_numpy()
    low, high = levels.min(), levels.max()
    axis.set_ylim(low * (low / high) ** 0.06, high * (high / low) ** 0.2)  # the numbers' room
    axis.set_xticks(range(len(ends)), list(ends.index), fontsize="small")
    axis.tick_params(axis="y", labelsize="x-small")
    axis.minorticks_off()
    sns.despine(ax=axis)
