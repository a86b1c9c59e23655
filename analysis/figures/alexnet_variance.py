"""Study `alexnet_variance`: He's product formula for AlexNets, and normalization."""

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
from fanin.theory.explain import FORWARD, Explanation, explain
from fanin.theory.explanation_steps import STEPS
from fanin.theory.moments import declared_moments

CLAIM = (
    "He's product formula is wrong for an AlexNet, because it ignores biases, padding and "
    "max-pooling; theory `finite_width` accounts for them. Subtracting means does not keep outputs "
    "small; normalization does, at any width, depth and init."
)
INITS = {
    "he_normal": "He",
    "pytorch_default": "PyTorch default",
    "alexnet2012": "2012",
}
WIDTH, HEIGHT = 6.8, 2.0  # inches: figure width, height per network
SHARE = 0.8  # share of the space between two layers that is filled with bars
STEP_STYLES: dict[str, dict[str, Any]] = {  # the hatches differ in grayscale
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
MIN_CHANGE = 0.02  # relative; a step of `explain` that changes each layer by less has no bar


def study(results: Results, criterion: Mapping[str, Any]) -> Study:
    """Test He's formula, theory `finite_width` and normalization against draws of the weights.

    Parameters
    ----------
    results
        Results of the sweep `alexnet_variance`.
    criterion
        `formula`, `theory`, `se`, `huge`, `moment_factor`, `trained`, `more_trained`. The comments
        in conf/sweep/alexnet_variance.yaml define them.

    Raises
    ------
    FaninError
        Cells that a figure needs have not run yet.
    """
    if results.cells.empty or results.layers.empty:
        raise FaninError(f"{results.folder.root}: no layer has been measured yet; run the sweep")
    measured = measured_settings(results)
    explanations = _explanations(results, measured)
    uniform = alexnet_outputs.load_networks(results, measured)
    normalized = normalized_networks.load_networks(results)
    draws = min(explanation.draws for explanation in explanations.values())
    side = int(results.cells.loc[results.cells["model"] == "alexnet", "data.side"].iloc[0])
    caption = (
        f"First figure: E[y^2] of an AlexNet's pre-activations on a real image of {side} x {side} "
        f"pixels, {draws} draws of all weights. Each bar, from left to right, removes one "
        "assumption of He's formula. Dots: geometric mean over draws with its standard error. "
        "Numbers: measured / He's formula. Assumptions that change no layer by more than 2% have "
        "no bar. 'activation' includes local response normalization; 'rest' is measured / theory. "
        f"{alexnet_outputs.caption(uniform)} {normalized_networks.caption(normalized)}"
    )
    huge = float(criterion["huge"])
    figures = {
        "alexnet_variance": waterfall(explanations),
        "alexnet_variance_outputs": alexnet_outputs.outputs_figure(uniform, huge),
        "alexnet_variance_moments": normalized_networks.moments_figure(normalized),
        "alexnet_variance_accuracy": normalized_networks.accuracy_figure(normalized),
    }
    claim_results = (
        *_claim_results(explanations, criterion),
        *alexnet_outputs.claim_results(uniform, criterion),
        *normalized_networks.claim_results(normalized, criterion),
    )
    return Study(CLAIM, figures, caption, claim_results)


def _explanations(
    results: Results, measured: Sequence[tuple[Setting, pd.DataFrame]]
) -> dict[str, Explanation]:
    """Explain the networks of the first grid, by label."""
    init = dict(zip(results.cells["cell_id"].astype(str), results.cells["init"], strict=True))
    model = dict(zip(results.cells["cell_id"].astype(str), results.cells["model"], strict=True))
    explanations: dict[str, Explanation] = {}
    for setting, draws in measured:
        cell = setting.cell_ids[0]
        if model.get(cell) == "alexnet" and init[cell] in INITS:
            explanations[_label(setting, init[cell])] = _explanation(setting, draws)
    if not explanations:
        raise FaninError(
            f"{results.folder.root}: no AlexNet of the first grid has been measured yet; "
            "run the rest of the sweep"
        )
    return explanations


def _label(setting: Setting, init: str) -> str:
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
    # Draws are numbered per seed; `explain` needs one number per draw.
    number = draws.groupby(["seed_weights", "draw"], observed=True).ngroup()
    return explain(
        *(network, images, declared_moments(network, cell.init)),
        measured=draws.assign(draw=number),
        max_images=None,
    )


def _claim_results(
    explanations: Mapping[str, Explanation], criterion: Mapping[str, Any]
) -> Iterator[ClaimResult]:
    formula, theory = (np.log(float(criterion[key])) for key in ("formula", "theory"))
    se = float(criterion["se"])
    for name, explanation in explanations.items():
        ends = explanation.ends[explanation.ends.quantity == FORWARD]
        log_ratio = np.log(ends.measured / ends.he).to_numpy()
        last = ends.iloc[-1]
        correct = ends.layer_name[np.abs(log_ratio) <= formula].tolist()
        yield ClaimResult(
            f"{name}: E[y^2] of the outputs",
            f"not the {last.he:.3g} of He's product formula",
            f"{last.measured:.3g} (se {100 * last.log_se:.2g}%), {np.exp(log_ratio[-1]):.2g} times "
            f"the formula. The formula is right within {100 * (np.exp(formula) - 1):.0f}% in "
            f"{', '.join(correct) or 'no layer'}",
            bool(abs(log_ratio[-1]) - se * last.log_se > formula),
            threshold=f"off by more than a factor of {np.exp(formula):g} and {se:g} se",
        )
        rows = explanation.frame
        rest = rows[(rows.quantity == FORWARD) & (rows.step == "rest")]
        deviation = np.abs(np.log(rest.factor)).to_numpy()
        error = rest.log_se.fillna(0).to_numpy()
        worst = int(deviation.argmax())
        yield ClaimResult(
            f"{name}: E[y^2], measured / predicted by theory `finite_width`, in the worst "
            "predicted layer",
            "1 (theory)",
            f"{rest.factor.iloc[worst]:.3f} (se {error[worst]:.3f}) in "
            f"{rest.layer_name.iloc[worst]} (of {len(rest)} layers)",
            bool((deviation <= np.maximum(theory, se * error)).all()),
            threshold=f"in every layer within a factor of {np.exp(theory):g}, or {se:g} se",
        )


def waterfall(explanations: Mapping[str, Explanation]) -> Figure:
    """Draw the second moment of each layer's pre-activations as a product of factors.

    Parameters
    ----------
    explanations
        By network label; one panel per network.
    """
    steps = visible_steps(explanations.values())
    rows = len(explanations)
    figure = Figure(figsize=(WIDTH, HEIGHT * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, 1, squeeze=False)[:, 0]
    for axis, (name, explanation) in zip(axes, explanations.items(), strict=True):
        _draw_factors(axis, explanation, steps)
        axis.set_title(name, loc="left", fontsize="small")
    figure.supylabel(r"pre-activation $\mathbb{E}[y_l^2]$ (dimensionless)", fontsize="small")
    axes[-1].set_xlabel("weight layer $l$", fontsize="small")
    handles = [
        Line2D([], [], **{**THEORY_LINES["he"], "label": "He's product formula"}),
        *(Patch(**_style(step), label=step) for step in steps),
        Line2D([], [], color="black", marker="o", markersize=3, linestyle="", label="measured"),
    ]
    figure.legend(
        handles=handles, loc="outside upper center", ncols=5, frameon=False, fontsize="x-small"
    )
    return figure


def visible_steps(explanations: Iterable[Explanation]) -> list[str]:
    """Return the steps of `explain` that change a layer by more than `MIN_CHANGE`, and `rest`."""
    factors = pd.concat([explanation.factors(FORWARD) for explanation in explanations])
    changes = factors.apply(lambda column: np.abs(np.log(column)).max() > np.log1p(MIN_CHANGE))
    return [step for step in STEPS if step == "rest" or changes[step]]


def format_factor(factor: float) -> str:
    """Format a factor with two digits, or one digit and an exponent above 1e5.

    >>> format_factor(0.834), format_factor(2400.0), format_factor(5.2e10)
    ('×0.83', '×2,400', '×5e10')
    """
    if factor < 1e5:
        return f"×{float(f'{factor:.2g}'):,g}"
    digit, power = f"{factor:.0e}".split("e")
    return f"×{digit}e{int(power)}"


def _style(step: str) -> dict[str, Any]:
    return {**STEP_STYLES[step], "edgecolor": "black", "linewidth": 0.4}


def _draw_factors(axis: Axes, explanation: Explanation, steps: Sequence[str]) -> None:
    ends = explanation.ends[explanation.ends.quantity == FORWARD].set_index("layer_name")
    factors = explanation.factors(FORWARD)
    bar_width = SHARE / len(steps)
    axis.set_yscale("log")
    for position, (name, row) in enumerate(factors.iterrows()):
        value, x = float(ends.he[name]), position - SHARE / 2
        axis.plot([x - bar_width / 2, x], [value, value], color=THEORY_LINES["he"]["color"])
        for step in STEPS:
            new_value = value * row[step]
            if step in steps:
                low, high = min(value, new_value), max(value, new_value)
                axis.bar(x, high - low, bar_width, low, align="edge", **_style(step))
                x += bar_width
            value = new_value
        end = ends.loc[name]
        error = [[end.measured * (1 - np.exp(-end.log_se))], [end.measured * np.expm1(end.log_se)]]
        axis.errorbar(x + bar_width / 2, end.measured, yerr=error, fmt="ko", ms=2.5, lw=1)
        axis.annotate(
            format_factor(end.measured / end.he), (position, 1),
            xycoords=("data", "axes fraction"), ha="center", va="top", fontsize="x-small",
        )  # fmt: skip
    axis.plot(range(len(ends)), ends.he, **THEORY_LINES["he"], linewidth=1)
    values = factors.cumprod(axis=1).mul(ends.he, axis=0).assign(he=ends.he).to_numpy()
    low, high = values.min(), values.max()
    axis.set_ylim(low * (low / high) ** 0.06, high * (high / low) ** 0.2)  # space for the text
    axis.set_xticks(range(len(ends)), list(ends.index), fontsize="small")
    axis.tick_params(axis="y", labelsize="x-small")
    axis.minorticks_off()
    sns.despine(ax=axis)
