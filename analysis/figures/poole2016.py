"""Study `poole2016`: length and correlation of signals in wide tanh networks (Figs 1 and 2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.study import ClaimResult, Study
from analysis.figures.style import PALETTE
from analysis.load import Results
from fanin.errors import FaninError
from fanin.theory.depth_scales import DepthScales, depth_scales
from fanin.theory.gaussian_pairs import pair_expectations

CLAIM = (
    "The length of a signal converges within about 4 layers. The correlation of two signals "
    "converges within about 20 layers, to 1 in the ordered phase (chi_1 < 1) and to less than 1 in "
    "the chaotic phase (chi_1 > 1)."
)
SIZE = (6.6, 5.2)  # inches
STYLES: dict[int, tuple[Any, str]] = {
    0: ("-", "o"),
    1: ("--", "s"),
    2: (":", "^"),
}  # line and marker of each sigma_w, which differ in grayscale too
STARTS = ["scaling.scale", "scaling.shift"]
MAX_Q = 16.0  # axis limit of panel A; only first layers have a larger q
LAW = pair_expectations(torch.tanh)


def study(results: Results, criterion: Mapping[str, Any]) -> Study:
    """Compare measured lengths and correlations with the paper's maps.

    Parameters
    ----------
    results
        Results of the sweep `poole2016`.
    criterion
        `within`: allowed deviation of a layer's mean over draws from theory (relative for lengths,
        absolute for correlations). `q_layers`, `c_layers`: layers after which q and c must have
        converged.
    """
    lines = _lines(results)
    if lines.empty:
        raise FaninError(f"{results.folder.root}: no layer has been measured yet; run the sweep")
    draws = int(lines["draws"].min())
    width = int(results.cells["model.width"].max())
    gains = sorted(lines["gain"].unique())
    scales = {gain: depth_scales(torch.tanh, gain**2, _bias_var(results)) for gain in gains}
    caption = (
        f"Tanh networks, 30 layers of width {width}, sigma_b = {_bias_var(results) ** 0.5:g}, two "
        "Gaussian images of 784 pixels with six combinations of length and correlation. q: second "
        "moment of the pre-activations (the squared length); c: correlation of the pre-activations "
        "of the two images; q* and c*: their limits in a deep network, by the paper's maps. "
        f"Symbols: mean over {draws} draws of the weights. Lines: theory, iterated from the "
        "measured first layer. A, C: value of a layer against that of the previous layer. B, D: "
        "value by layer."
    )
    return Study(
        CLAIM,
        {"poole2016": _figure(lines, scales)},
        caption,
        tuple(_claim_results(lines, scales, criterion)),
    )


def next_layer(
    q: np.ndarray, c: np.ndarray, gain: np.ndarray | float, bias_var: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return a layer's squared length and correlation from those of the previous layer.

    These are the length and correlation maps of Poole et al. 2016, eqs 3 to 5.

    Parameters
    ----------
    q
        Squared length of the pre-activations, the same for both inputs of a pair.
    c
        Correlation of the pre-activations of a pair of inputs.
    gain, bias_var
        sigma_w and sigma_b^2.
    """
    var = torch.from_numpy(q)
    products = LAW.covariance(
        (torch.from_numpy(c) * var)[:, None, None], var[:, None], var[:, None]
    )
    next_q = gain**2 * LAW.second_moment(var).numpy() + bias_var
    return next_q, (gain**2 * products[:, 0, 0].numpy() + bias_var) / next_q


def _bias_var(results: Results) -> float:
    return float(results.cells["init.bias.std"].iloc[0]) ** 2


def _lines(results: Results) -> pd.DataFrame:
    """Return means over draws (`q`, `c`) and predictions (`q_theory`, `c_theory`) by layer."""
    layers = results.layers
    readout = layers["layer"].max() if len(layers) else 0
    inner = layers[(layers["layer"] > 0) & (layers["layer"] < readout) & (layers["image"] == -1)]
    about = results.cells[["cell_id", "init.gain", *STARTS]]
    layers = inner[inner["quantity"].isin(["preact_m2", "input_correlation"])].merge(about)
    keys = ["init.gain", *STARTS, "layer"]
    groups = layers.groupby([*keys, "quantity"], observed=True)["value"]
    both = groups.mean().unstack("quantity").reset_index()
    counts = groups.count().groupby(keys, observed=True).min().reset_index(drop=True)
    both = both.assign(draws=counts).rename(
        columns={"init.gain": "gain", "preact_m2": "q", "input_correlation": "c"}
    )
    return _with_theory(both.sort_values(["gain", *STARTS, "layer"]), _bias_var(results))


def _with_theory(lines: pd.DataFrame, bias_var: float) -> pd.DataFrame:
    """Add predictions: apply the maps repeatedly to the measured first layer of each start."""
    shape = (-1, lines["layer"].nunique())
    gain = lines["gain"].to_numpy(float).reshape(shape)[:, 0]
    q, c = (lines[name].to_numpy(float).reshape(shape)[:, 0].copy() for name in ("q", "c"))
    by_layer = [(q, c)]
    for _ in range(shape[1] - 1):
        by_layer.append(next_layer(*by_layer[-1], gain, bias_var))
    theory = np.array(by_layer)  # [layer, q or c, start]
    return lines.assign(q_theory=theory[:, 0].T.ravel(), c_theory=theory[:, 1].T.ravel())


def _claim_results(
    lines: pd.DataFrame, scales: Mapping[float, DepthScales], criterion: Mapping[str, Any]
) -> Iterator[ClaimResult]:
    within = float(criterion["within"])
    for gain, scale in scales.items():
        rows = lines[lines["gain"] == gain]
        q_off = float((rows["q"] / rows["q_theory"] - 1).abs().max())
        c_off = float((rows["c"] - rows["c_theory"]).abs().max())
        last = rows[rows["layer"] == rows["layer"].max()]
        yield ClaimResult(
            f"sigma_w = {gain:g}: q in the last layer, and its deviation from the map in any layer",
            f"q* = {scale.q_star:.3f} (paper's map)",
            f"{last['q'].mean():.3f}; largest deviation {q_off:.1%}",
            q_off <= within,
            threshold=f"at most {within:.0%}",
            cells={"init.gain": gain},
        )
        yield ClaimResult(
            f"sigma_w = {gain:g}: c in the last layer, and its deviation from the map in any layer",
            f"c* = {scale.c_star:.3f} (paper's map; {scale.phase} phase, "
            f"chi_1 = {scale.chi_1:.3f})",
            f"{last['c'].mean():.3f}; largest deviation {c_off:.3f}",
            c_off <= within,
            threshold=f"at most {within:g}",
            cells={"init.gain": gain},
        )
    fixed = lines["gain"].map({gain: scale.q_star for gain, scale in scales.items()})
    after = lines["layer"] > criterion["q_layers"]
    q_left = float((lines["q"] / fixed - 1)[after].abs().max())
    yield ClaimResult(
        f"q after layer {criterion['q_layers']}: deviation from q*",
        f"converges within about 4 layers (paper's text); below {within:.0%}",
        f"largest {q_left:.1%}",
        q_left <= within,
        threshold=f"at most {within:.0%}",
    )
    limit = lines["gain"].map({gain: scale.c_star for gain, scale in scales.items()})
    c_after = lines["layer"] > criterion["c_layers"]
    for phase, chaotic in (("chaotic", True), ("ordered", False)):
        rows = c_after & ((limit < 1) == chaotic)
        c_left = float((lines["c"] - limit)[rows].abs().max())
        yield ClaimResult(
            f"c after layer {criterion['c_layers']}, {phase} phase: deviation from c*",
            f"converges within about 20 layers (paper's text); below {within:g}",
            f"largest {c_left:.3f}",
            c_left <= within,
            threshold=f"at most {within:g}",
        )


def _figure(lines: pd.DataFrame, scales: Mapping[float, DepthScales]) -> Figure:
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots(2, 2)
    for number, (gain, scale) in enumerate(scales.items()):
        dash, mark = STYLES[number % len(STYLES)]
        style = {"color": PALETTE[number], "linestyle": dash, "linewidth": 1.2}
        dots = {"color": PALETTE[number], "marker": mark, "s": 9, "linewidth": 0, "alpha": 0.7}
        rows = lines[lines["gain"] == gain]
        _maps(axes[:, 0], rows, scale, style, dots)
        for _, start in rows.groupby(STARTS):
            axes[0, 1].plot(start["layer"], start["q_theory"], **style)
            axes[0, 1].scatter(start["layer"], start["q"], **dots)
            axes[1, 1].plot(start["layer"], start["c_theory"], **style)
            axes[1, 1].scatter(start["layer"], start["c"], **dots)
    _label(axes)
    handles = [
        Line2D([], [], color=PALETTE[n], linestyle=STYLES[n % 3][0], marker=STYLES[n % 3][1],
               markersize=3.5, label=rf"$\sigma_w = {gain:g}$ ({scale.phase})")
        for n, (gain, scale) in enumerate(scales.items())
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False)
    return figure


def _maps(
    axes: np.ndarray,
    rows: pd.DataFrame,
    scale: DepthScales,
    style: Mapping[str, Any],
    dots: Mapping[str, Any],
) -> None:
    """Draw each layer against the previous one: lengths (top), correlations near q* (bottom)."""
    gain, bias_var = rows["gain"].iloc[0], _bias_of(scale, rows["gain"].iloc[0])
    q = np.linspace(1e-3, MAX_Q, 200)
    var = torch.from_numpy(q)
    axes[0].plot(q, gain**2 * LAW.second_moment(var).numpy() + bias_var, **style)
    c = np.linspace(0.0, 1.0, 100)
    axes[1].plot(c, next_layer(np.full(100, scale.q_star), c, gain, bias_var)[1], **style)
    for _, start in rows.groupby(STARTS):
        axes[0].scatter(start["q"].iloc[:-1], start["q"].iloc[1:], **dots)
        settled = start[start["layer"] > 4]
        axes[1].scatter(settled["c"].iloc[:-1], settled["c"].iloc[1:], **dots)


def _bias_of(scale: DepthScales, gain: float) -> float:
    """Return sigma_b^2 from the fixed point q*."""
    var = torch.tensor([scale.q_star], dtype=torch.float64)
    return scale.q_star - gain**2 * float(LAW.second_moment(var))


def _label(axes: np.ndarray) -> None:
    for axis, name in zip(axes.flat, "ABCD", strict=True):
        axis.set_title(name, loc="left", fontweight="bold", fontsize="medium")
        sns.despine(ax=axis)
    for row, (symbol, name) in enumerate((("q", "length"), ("c", "correlation"))):
        map_axis: Axes = axes[row, 0]
        map_axis.axline((0, 0), slope=1, color="0.7", linewidth=0.8, zorder=0)
        map_axis.set_xlabel(rf"{name} ${symbol}^{{l-1}}$")
        map_axis.set_ylabel(rf"${symbol}^l$")
        axes[row, 1].set_xlabel("layer $l$")
        axes[row, 1].set_ylabel(rf"{name} ${symbol}^l$")
    axes[0, 0].set(xlim=(0, MAX_Q), ylim=(0, MAX_Q))
    axes[0, 1].set_yscale("log")
