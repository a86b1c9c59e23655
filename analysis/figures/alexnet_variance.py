"""He's product formula held against an AlexNet on real images, and what keeps its outputs down."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.figures import alexnet_outputs, normalized_networks
from analysis.figures.study import ClaimResult, Study
from analysis.figures.style import PALETTE, THEORY_LINES
from analysis.load import Results
from analysis.settings import Setting, measured_settings
from experiments.inputs import prepared, probe_images
from experiments.schema import build_cell
from fanin.errors import FaninError
from fanin.theory.explain import FORWARD, STEPS, Explanation, explain
from fanin.theory.moments import declared_moments

CLAIM = (
    "He's product formula is false for an AlexNet, which has biases, padding and max-pools, and "
    "the Gaussian field is right; subtracting means doesn't keep outputs down, and normalization "
    "does, whatever the width, depth and weights."
)
INITS = {
    "he_normal": "He",
    "pytorch_default": "torch's default",
    "alexnet2012": "2012",
}
WIDTH, HEIGHT = 6.8, 2.0  # inches: of the figure, and of one network
SHARE = 0.8  # of a layer's place that its bars take
STEP_LOOKS: dict[str, dict[str, Any]] = {  # told apart in grey by their hatches
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


def study(results: Results, criterion: Mapping[str, Any]) -> Study:
    """Hold the formula, and what is said to keep outputs down, against draws of the weights.

    Parameters
    ----------
    results
        Of the sweep `alexnet_variance`.
    criterion
        `formula`, `theory`: factors within which He's number and ours count as right, or ours
        within `se` standard errors; `huge`: a root mean square in the millions; `half`, `learns`,
        `more`: see `normalized_networks`.

    Raises
    ------
    FaninError
        Cells that a figure needs have not run.
    """
    if results.cells.empty or results.layers.empty:
        raise FaninError(f"{results.folder.root}: no layer was measured yet")
    measured = measured_settings(results)
    networks = _explained(results, measured)
    outputs = alexnet_outputs.outputs(results, measured)
    cells = normalized_networks.networks(results)
    draws = min(each.draws for each in networks.values())
    side = int(results.cells.loc[results.cells["model"] == "alexnet", "data.side"].iloc[0])
    caption = (
        f"First figure: E[y^2] of an AlexNet's pre-activations on a real image of {side} x "
        f"{side} pixels, {draws} draws of all weights; bars: an assumption of He's formula lifted "
        "at each, left to right, dots: geometric mean over the draws and its standard error, "
        "numbers: measured / He's. Steps that change nothing by 2% anywhere are left out; "
        "activation holds local response normalization too, rest is what no theory accounts "
        f"for. {alexnet_outputs.caption(outputs)} {normalized_networks.caption(cells)}"
    )
    figures = {
        "alexnet_variance": waterfall(networks),
        "alexnet_variance_outputs": alexnet_outputs.figure(outputs, float(criterion["huge"])),
        "alexnet_variance_moments": normalized_networks.moments_figure(cells),
        "alexnet_variance_accuracy": normalized_networks.accuracy_figure(cells),
    }
    lines = (
        *_claim_results(networks, criterion),
        *alexnet_outputs.claim_results(outputs, criterion),
        *normalized_networks.claim_results(cells, criterion),
    )
    return Study(CLAIM, figures, caption, lines)


def _explained(
    results: Results, measured: Sequence[tuple[Setting, pd.DataFrame]]
) -> dict[str, Explanation]:
    """The networks of the first grid, by what to call them."""
    option = dict(zip(results.cells["cell_id"].astype(str), results.cells["init"], strict=True))
    model = dict(zip(results.cells["cell_id"].astype(str), results.cells["model"], strict=True))
    found: dict[str, Explanation] = {}
    for setting, draws in measured:
        cell = setting.cell_ids[0]
        if model.get(cell) == "alexnet" and option[cell] in INITS:
            found[_name(setting, option[cell])] = _explanation(setting, draws)
    if not found:
        raise FaninError(f"{results.folder.root}: no AlexNet of the first grid was measured yet")
    return found


def _name(setting: Setting, init: str) -> str:
    model = setting.config["model"]
    parts = [f"{INITS[init]} init"]
    if model["lrn"]:
        parts.append("local response normalization")
    if model["groups"] > 1:
        parts.append(f"{model['groups']} groups")
    return ", ".join(parts)


def _explanation(setting: Setting, draws: pd.DataFrame) -> Explanation:
    cell = build_cell(setting.config)
    images = probe_images(cell, *prepared(cell, torch.device("cpu"))).double()
    network = cell.network().double().eval()
    # A draw is known by its seed and number together; `explain` counts them by one.
    number = draws.groupby(["seed_weights", "draw"], observed=True).ngroup()
    return explain(
        network, images, declared_moments(network, cell.init), measured=draws.assign(draw=number)
    )


def _claim_results(
    networks: Mapping[str, Explanation], criterion: Mapping[str, Any]
) -> Iterator[ClaimResult]:
    formula, theory = (np.log(float(criterion[key])) for key in ("formula", "theory"))
    se = float(criterion["se"])
    for name, explanation in networks.items():
        ends = explanation.ends[explanation.ends.quantity == FORWARD]
        off = np.log(ends.measured / ends.he).to_numpy()
        last = ends.iloc[-1]
        right = ends.layer_name[np.abs(off) <= formula].tolist()
        yield ClaimResult(
            f"{name}: E[y^2] of the outputs",
            f"false: {last.he:.3g} (He's product formula)",
            f"{last.measured:.3g} (se {100 * last.log_se:.2g}%), {np.exp(off[-1]):.2g} times that; "
            f"within {100 * (np.exp(formula) - 1):.0f}% in {', '.join(right) or 'no layer'}",
            bool(abs(off[-1]) - se * last.log_se > formula),
        )
        rows = explanation.frame
        rest = rows[(rows.quantity == FORWARD) & (rows.step == "rest")]
        miss, error = np.abs(np.log(rest.factor)).to_numpy(), rest.error.fillna(0).to_numpy()
        worst = int(miss.argmax())
        yield ClaimResult(
            f"{name}: measured / predicted by the Gaussian field with its width, furthest from 1",
            "1 (ours)",
            f"{rest.factor.iloc[worst]:.3f} (se {error[worst]:.3f}) in "
            f"{rest.layer_name.iloc[worst]}, of {len(rest)} layers",
            bool((miss <= np.maximum(theory, se * error)).all()),
        )


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
        Line2D([], [], **{**THEORY_LINES["he"], "label": "He's product formula"}),
        *(Patch(**_style(step), label=step) for step in shown),
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


def _style(step: str) -> dict[str, Any]:
    return {**STEP_LOOKS[step], "edgecolor": "black", "linewidth": 0.4}


def _network(axis: Axes, explanation: Explanation, shown: Sequence[str]) -> None:
    ends = explanation.ends[explanation.ends.quantity == FORWARD].set_index("layer_name")
    factors = explanation.factors(FORWARD)
    bar = SHARE / len(shown)
    axis.set_yscale("log")
    for place, (name, row) in enumerate(factors.iterrows()):
        level, left = float(ends.he[name]), place - SHARE / 2
        axis.plot([left - bar / 2, left], [level, level], color=THEORY_LINES["he"]["color"])
        for step in STEPS:
            after = level * row[step]
            if step in shown:
                low, high = min(level, after), max(level, after)
                axis.bar(left, high - low, bar, low, align="edge", **_style(step))
                left += bar
            level = after
        end = ends.loc[name]
        error = [[end.measured * (1 - np.exp(-end.log_se))], [end.measured * np.expm1(end.log_se)]]
        axis.errorbar(left + bar / 2, end.measured, yerr=error, fmt="ko", ms=2.5, lw=1)
        axis.annotate(
            times(end.measured / end.he), (place, 1), xycoords=("data", "axes fraction"),
            ha="center", va="top", fontsize="x-small",
        )  # fmt: skip
    axis.plot(range(len(ends)), ends.he, **THEORY_LINES["he"], linewidth=1)
    levels = factors.cumprod(axis=1).mul(ends.he, axis=0).assign(he=ends.he).to_numpy()
    low, high = levels.min(), levels.max()
    axis.set_ylim(low * (low / high) ** 0.06, high * (high / low) ** 0.2)  # the numbers' room
    axis.set_xticks(range(len(ends)), list(ends.index), fontsize="small")
    axis.tick_params(axis="y", labelsize="x-small")
    axis.minorticks_off()
    sns.despine(ax=axis)
