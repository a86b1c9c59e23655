"""One network, forward and backward: measured draws, He's formula, and the certificate's band.

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

from analysis.cli import add_sweep, plain_console
from analysis.comparison import TheoryComparison, compare
from analysis.figures.query import select
from analysis.figures.style import MEASURED, THEORY_LINES, save, use_style
from analysis.load import load
from experiments.console import exit_on_error
from fanin.errors import FaninError
from fanin.statistics.coverage import Z

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
MIDDLE = {"color": BLUE, "linewidth": 1.4, "linestyle": "-"}
HE = {**THEORY_LINES["he"], "linewidth": 1.6}
RATIOS = (1.5, 2.0, 3.0)
JITTER = 0.16  # of a layer's place, so that draws don't hide each other


def certificate_band(comparison: TheoryComparison) -> Figure:
    """Draw one setting whose draws were measured and that theory `finite_width` has predicted.

    Parameters
    ----------
    comparison
        Its image -1 is drawn: the only one of a probe set of one.

    Returns
    -------
    matplotlib.figure.Figure
        Forward and backward, over the weight layers. A dot is one draw of all the weights; the band
        holds 95 % of single draws by theory `finite_width`, the line in it is their predicted mean;
        the dashes are He's product formula. Below, everything is divided by the predicted mean.
    """
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots(2, 2, sharex="col", sharey="row", height_ratios=(1.5, 1))
    for (above, below), (quantity, words) in zip(axes.T, PANELS.items(), strict=True):
        title, label, ratio_label = words
        _moments(above, comparison, quantity)
        _ratios(below, comparison, quantity)
        above.set_title(title, loc="left", fontsize="medium")
        above.set_ylabel(f"{label}\n{UNITS}", fontsize="small")
        below.set_ylabel(ratio_label, fontsize="small")
    for axis in axes.flat:
        axis.tick_params(labelsize="small", labelleft=True)
        axis.minorticks_off()
        sns.despine(ax=axis)
    _legend(figure, comparison)
    return figure


def band(value: np.ndarray, log_sd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Interval of 95 % of single draws; `value` is their mean, `log_sd` their log's spread.

    Examples
    --------
    >>> low, high = band(np.array([1.0]), np.array([0.1]))
    >>> low.round(3), high.round(3)
    (array([0.818]), array([1.21]))
    """
    median = value * np.exp(-(log_sd**2) / 2)
    return median * np.exp(-Z * log_sd), median * np.exp(Z * log_sd)


def _moments(axis: Axes, comparison: TheoryComparison, quantity: str) -> None:
    measured, he, ours = _tables(comparison, quantity)
    axis.set_yscale("log")
    axis.fill_between(ours.layer, *band(ours.value.to_numpy(), ours.log_sd.to_numpy()), **BAND)
    axis.plot(ours.layer, ours.value, **MIDDLE)
    axis.plot(he.layer, he.value, **HE)
    _dots(axis, measured.layer, measured.value)
    axis.yaxis.set_major_locator(LogLocator(numticks=8))
    _tell_the_miss(axis, measured, he, forward=quantity == "preact_m2")


def _ratios(axis: Axes, comparison: TheoryComparison, quantity: str) -> None:
    measured, he, ours = _tables(comparison, quantity)
    one = ours.set_index("layer").value
    low, high = band(np.ones(len(ours)), ours.log_sd.to_numpy())
    axis.set_yscale("log")
    axis.fill_between(ours.layer, low, high, **BAND)
    axis.plot(ours.layer, np.ones(len(ours)), **MIDDLE)
    axis.plot(he.layer, he.value.to_numpy() / one.reindex(he.layer).to_numpy(), **HE)
    _dots(axis, measured.layer, measured.value / one.reindex(measured.layer).to_numpy())
    axis.set_ylim(1 / RATIOS[-1], RATIOS[-1])  # of He's line only the beginning
    ticks = [*(1 / r for r in reversed(RATIOS)), 1, *RATIOS]
    axis.set_yticks(ticks, [f"{tick:.2g}" for tick in ticks])
    axis.set_xlim(ours.layer.min() - 0.5, ours.layer.max() + 0.5)
    axis.set_xticks(ours.layer, ours.layer_name, rotation=40, ha="right", rotation_mode="anchor")
    axis.set_xlabel("weight layer $l$", fontsize="small")


def _dots(axis: Axes, layers: pd.Series, values: pd.Series) -> None:
    places = layers + np.random.default_rng(0).uniform(-JITTER, JITTER, len(layers))
    axis.scatter(places, values, s=3, color=MEASURED, alpha=0.6, linewidth=0, zorder=2.5)


def _tell_the_miss(axis: Axes, measured: pd.DataFrame, he: pd.DataFrame, *, forward: bool) -> None:
    """Write beside the last layer how far off He's number is."""
    layer = he.layer.max() if forward else he.layer.min()
    mean = float(measured.value[measured.layer == layer].mean())
    formula = float(he.value[he.layer == layer].iloc[0])
    small = formula < mean
    times = f"{float(f'{max(formula / mean, mean / formula):.2g}'):,.0f}"
    axis.annotate(
        f"He: {times} times too {'small' if small else 'large'}",
        xy=(layer, formula),
        xytext=(0, -5 if small else 24),  # clear of the lines
        textcoords="offset points",
        ha="right" if forward else "left",
        va="top" if small else "bottom",
        fontsize="x-small",
        color=HE["color"],
    )


def _legend(figure: Figure, comparison: TheoryComparison) -> None:
    draws = comparison.draws.groupby(["seed_weights", "draw"]).ngroups
    dot = Line2D([], [], marker="o", linestyle="", markersize=2.5, color=MEASURED)
    dot.set_label(f"measured: {draws} draws of the weights")
    he = Line2D([], [], **HE)
    mean = Line2D([], [], **MIDDLE, label="certificate: mean")
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
    """Measured draws, He's prediction and theory `finite_width`'s, of one quantity."""
    predicted = comparison.predicted
    he, ours = (predicted[predicted["theory"] == theory] for theory in ("he", "finite_width"))
    return _rows(comparison.draws, quantity), _rows(he, quantity), _rows(ours, quantity)


def _rows(table: pd.DataFrame, quantity: str) -> pd.DataFrame:
    rows = select(table, quantity=quantity, image=-1)
    return rows[rows["layer"] > 0].sort_values("layer")


def main(argv: Sequence[str] | None = None) -> None:
    """Draw a sweep's first setting into its folder, and into others."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.figures.certificate_band", description=__doc__.splitlines()[0]
    )
    add_sweep(parser, nargs="?", default="certificate_band")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="default: the sweep's figures/")
    asked = parser.parse_args(argv)
    with exit_on_error():
        results = load(asked.name, asked.results)
        comparison = compare(results)[0]
        if comparison.unpredicted:
            raise FaninError(comparison.unpredicted)
    use_style()
    folder = asked.to or results.folder.root / "figures"
    paths = save(certificate_band(comparison), folder, "certificate_band")
    plain_console().print(f"Figure: {paths[0].with_suffix('')}.{{pdf,svg,png}}")


if __name__ == "__main__":
    main()
