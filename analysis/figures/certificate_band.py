"""Figure of one network, forward and backward: measured draws, He's formula and the certificate.

python -m analysis.figures.certificate_band NAME
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator
from numpy.typing import ArrayLike

from analysis.cli import add_sweep_arguments, plain_console
from analysis.figures.query import select
from analysis.figures.style import MEASURED_COLOR, THEORY_LINES, save, use_style
from analysis.load import load
from analysis.theory_comparison import TheoryComparison, compare_to_theory
from experiments.console import exit_on_error
from fanin.errors import FaninError
from fanin.statistics.draw_distribution import SHAPE, log_interval, predicted_mean_log

SIZE = (6.6, 4.1)  # inches: the width of a page's text
PANELS = {
    "preact_m2": ("forward", r"pre-activation $\mathbb{E}[y_l^2]$", r"$y_l^2$ / certificate"),
    "vjp_m2": (
        "backward, from $|u|^2 = n$ at the $n$ logits",
        r"cotangent $\mathbb{E}[\delta_l^2]$",
        r"$\delta_l^2$ / certificate",
    ),
}
UNITS = "(dimensionless)"
BLUE = sns.color_palette("colorblind")[0]
BAND = {"color": BLUE, "alpha": 0.3, "linewidth": 0}
MEAN_LINE = {"color": BLUE, "linewidth": 1.4, "linestyle": "-"}
HE = {**THEORY_LINES["he"], "linewidth": 1.6}
RATIOS = (1.5, 2.0, 3.0)
JITTER = 0.16  # horizontal jitter, in layers, so that draws do not hide each other


def certificate_band(comparison: TheoryComparison) -> Figure:
    """Draw measured and predicted second moments by weight layer, forward and backward.

    Parameters
    ----------
    comparison
        One setting with measured draws and predictions of theories `he` and `finite_width`.
        The figure shows image -1, the mean over the probe set.

    Returns
    -------
    matplotlib.figure.Figure
        Left: forward; right: backward. Each dot is one draw of all weights. The band is the 95 %
        interval of single draws by theory `finite_width`, the solid line its mean, and the dashed
        line He's product formula. The lower panels show the same divided by the predicted mean.
    """
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots(2, 2, sharex="col", sharey="row", height_ratios=(1.5, 1))
    for (top, bottom), (quantity, labels) in zip(axes.T, PANELS.items(), strict=True):
        title, label, ratio_label = labels
        _moments(top, comparison, quantity)
        _ratios(bottom, comparison, quantity)
        top.set_title(title, loc="left", fontsize="medium")
        top.set_ylabel(f"{label}\n{UNITS}", fontsize="small")
        bottom.set_ylabel(ratio_label, fontsize="small")
    for axis in axes.flat:
        axis.tick_params(labelsize="small", labelleft=True)
        axis.minorticks_off()
        sns.despine(ax=axis)
    _legend(figure, comparison)
    return figure


def band(
    value: np.ndarray,
    log_sd: np.ndarray,
    zero_probability: ArrayLike = 0.0,
    log_skew: ArrayLike = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the 95 % interval of draws m of mean `value` and sd(log m) = `log_sd`, if not 0.

    Examples
    --------
    >>> low, high = band(np.array([1.0]), np.array([0.1]))
    >>> low.round(3), high.round(3)
    (array([0.818]), array([1.21]))
    """
    mean_log = predicted_mean_log(np.log(value), log_sd, zero_probability, log_skew)
    low, high = log_interval(mean_log, log_sd, zero_probability, log_skew)
    return np.exp(low), np.exp(high)


def _shape(certificate: pd.DataFrame) -> np.ndarray:
    # Predictions of an older version have no column `log_skew`.
    return certificate.reindex(columns=SHAPE, fill_value=0.0).to_numpy(float).T


def _moments(axis: Axes, comparison: TheoryComparison, quantity: str) -> None:
    measured, he, certificate = _tables(comparison, quantity)
    axis.set_yscale("log")
    low, high = band(certificate.value.to_numpy(), *_shape(certificate))
    axis.fill_between(certificate.layer, low, high, **BAND)
    axis.plot(certificate.layer, certificate.value, **MEAN_LINE)
    axis.plot(he.layer, he.value, **HE)
    _dots(axis, measured.layer, measured.value)
    axis.yaxis.set_major_locator(LogLocator(numticks=8))
    _annotate_he_ratio(axis, measured, he, forward=quantity == "preact_m2")


def _ratios(axis: Axes, comparison: TheoryComparison, quantity: str) -> None:
    measured, he, certificate = _tables(comparison, quantity)
    layers, ones = certificate.layer, np.ones(len(certificate))
    mean = certificate.set_index("layer").value
    low, high = band(ones, *_shape(certificate))
    axis.set_yscale("log")
    axis.fill_between(layers, low, high, **BAND)
    axis.plot(layers, ones, **MEAN_LINE)
    axis.plot(he.layer, he.value.to_numpy() / mean.reindex(he.layer).to_numpy(), **HE)
    _dots(axis, measured.layer, measured.value / mean.reindex(measured.layer).to_numpy())
    axis.set_ylim(1 / RATIOS[-1], RATIOS[-1])  # cuts off most of He's line
    ticks = [*(1 / r for r in reversed(RATIOS)), 1, *RATIOS]
    axis.set_yticks(ticks, [f"{tick:.2g}" for tick in ticks])
    axis.set_xlim(layers.min() - 0.5, layers.max() + 0.5)
    names = certificate.layer_name
    axis.set_xticks(layers, names, rotation=40, ha="right", rotation_mode="anchor")
    axis.set_xlabel("weight layer $l$", fontsize="small")


def _dots(axis: Axes, layers: pd.Series, values: pd.Series) -> None:
    x = layers + np.random.default_rng(0).uniform(-JITTER, JITTER, len(layers))
    axis.scatter(x, values, s=3, color=MEASURED_COLOR, alpha=0.6, linewidth=0, zorder=2.5)


def _annotate_he_ratio(
    axis: Axes, measured: pd.DataFrame, he: pd.DataFrame, *, forward: bool
) -> None:
    """Annotate the last layer with the ratio of He's prediction to the measured mean."""
    layer = he.layer.max() if forward else he.layer.min()
    mean = float(measured.value[measured.layer == layer].mean())
    formula = float(he.value[he.layer == layer].iloc[0])
    too_small = formula < mean
    times = f"{float(f'{max(formula / mean, mean / formula):.2g}'):,.0f}"
    axis.annotate(
        f"He: {times} times too {'small' if too_small else 'large'}",
        xy=(layer, formula),
        xytext=(0, -5 if too_small else 24),  # keeps the text off the lines
        textcoords="offset points",
        ha="right" if forward else "left",
        va="top" if too_small else "bottom",
        fontsize="x-small",
        color=HE["color"],
    )


def _legend(figure: Figure, comparison: TheoryComparison) -> None:
    draws = comparison.draws.groupby(["seed_weights", "draw"]).ngroups
    dot = Line2D([], [], marker="o", linestyle="", markersize=2.5, color=MEASURED_COLOR)
    dot.set_label(f"measured: {draws} draws of the weights")
    he = Line2D([], [], **HE)
    mean = Line2D([], [], **MEAN_LINE, label="certificate: mean")
    interval = Patch(**BAND, label="certificate: 95 % of draws")
    figure.legend(
        handles=[dot, interval, mean, he],
        loc="outside upper center",
        ncols=4,
        frameon=False,
        fontsize="small",
        handlelength=1.8,
        columnspacing=1.2,
    )


def _tables(
    comparison: TheoryComparison, quantity: str
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return one quantity's measured draws and the predictions of `he` and `finite_width`."""
    predicted = comparison.predicted
    he, certificate = (
        _rows(predicted[predicted["theory"] == theory], quantity)
        for theory in ("he", "finite_width")
    )
    return _rows(comparison.draws, quantity), he, certificate


def _rows(table: pd.DataFrame, quantity: str) -> pd.DataFrame:
    rows = select(table, quantity=quantity, image=-1)
    return rows[rows["layer"] > 0].sort_values("layer")


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the first setting of a sweep and save the figure."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.figures.certificate_band", description=__doc__.splitlines()[0]
    )
    add_sweep_arguments(parser, nargs="?", default="certificate_band")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="folder in which to save the figure (default: the sweep's figures/)",
    )
    args = parser.parse_args(argv)
    with exit_on_error():
        results = load(args.name, args.results, all=args.all)
        comparison = compare_to_theory(results)[0]
        if comparison.unpredicted:
            raise FaninError(comparison.unpredicted)
    use_style()
    folder = args.output or results.folder.root / "figures"
    paths = save(certificate_band(comparison), folder, "certificate_band")
    plain_console().print(f"Figure: {paths[0].with_suffix('')}.{{pdf,svg,png}}")


if __name__ == "__main__":
    main()
