"""Plots of certificates, explanations and probes. matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import cycle
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fanin.errors import ConfigError, FaninError, suggest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colors of different luminance, and one marker for each, so that series differ in grey.
COLORS = ("#000000", "#0072b2", "#d55e00", "#6a9f58", "#cc79a7", "#7f5200", "#56b4e9", "#999999")
MARKERS = "osD^vPX*"
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
MIN_WIDTH = 6.5  # inches, of a figure
MAX_LABELS = 30  # of layers on an axis
MAX_TYPES = 12  # layers whose types are written on the axis
NARROW = 3.0  # factor below which a logarithmic axis has evenly spaced ticks
MINOR_LABELS = 1.5  # decades of a logarithmic axis below which minor ticks are labelled
RMS_LABELS = {
    "preact_m2": "rms of pre-activation $y$ (dimensionless)",
    "act_m2": "rms of activation $x$ (dimensionless)",
    "weight_m2": "rms of weights $w$ (dimensionless)",
    "vjp_m2": r"rms of gradient $\delta$, with rms 1 at the logits",
    "weight_vjp_m2": "rms of weight gradient, with rms 1 at the logits",
    "grad_m2": r"rms of loss gradient $\partial L/\partial y$",
    "weight_grad_m2": r"rms of loss gradient $\partial L/\partial w$",
}


def create_axes(n: int, layers: int, ax: Axes | Sequence[Axes] | None) -> list[Axes]:
    """Return the given axes, or `n` new ones below each other.

    Raises
    ------
    FaninError
        matplotlib is not installed.
    ConfigError
        The number of given axes is not `n`.
    """
    if find_spec("matplotlib") is None:
        raise FaninError("plots need matplotlib; install it: pip install matplotlib")
    if ax is not None:
        given = list(np.atleast_1d(np.asarray(ax, dtype=object)).ravel())
        if len(given) != n:
            raise ConfigError(f"ax: pass {n} axes, got {len(given)}")
        return given
    from matplotlib import pyplot

    width = min(max(MIN_WIDTH, 0.65 * layers), 14.0)
    _, axes = pyplot.subplots(
        n, 1, figsize=(width, 2.6 * n + 0.8), sharex=True, squeeze=False, layout="constrained"
    )
    return list(axes.ravel())


def label_layers(ax: Axes, names: Sequence[str], modules: Sequence[str] = ()) -> None:
    """Label the x-axis with the names of the layers, and their types if there are few."""
    step = -(-len(names) // MAX_LABELS)
    types = [module.partition("(")[0] for module in modules] if len(names) <= MAX_TYPES else []
    labels = [
        f"{name}\n{kind}" if kind else name
        for name, kind in zip(names, types or [""] * len(names), strict=True)
    ]
    is_long = max(map(len, names), default=0) > 6 or any(len(kind) > 8 for kind in types)
    ax.set_xticks(
        range(0, len(names), step),
        labels[::step],
        rotation=45 if is_long else 0,
        ha="right" if is_long else "center",
        fontsize="small",
    )
    ax.set_xlabel("layer, from input to output")


def use_log_scale(ax: Axes, values: Sequence[float]) -> None:
    """Use a logarithmic y-axis with plain numbers if a value is positive and finite."""
    if any(isfinite(value) and value > 0 for value in values):
        ax.set_yscale("log")
        low, high = ax.get_ylim()
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        if high < NARROW * low:
            from matplotlib.ticker import MaxNLocator, NullLocator

            ax.yaxis.set_major_locator(MaxNLocator(5))
            ax.yaxis.set_minor_locator(NullLocator())
        elif high < low * 10**MINOR_LABELS:
            ax.yaxis.set_minor_formatter(_format_minor)
        else:
            ax.yaxis.set_minor_formatter(lambda value, _: "")
    ax.grid(axis="y", color="0.85", linewidth=0.6)
    ax.set_axisbelow(True)


def plot_layers(
    ax: Axes,
    values: Sequence[float],
    intervals: Sequence[tuple[float, float] | None],
    measured: Sequence[float],
    unhealthy: Sequence[bool],
    label: str,
) -> None:
    """Draw a predicted value per layer, its 95 % interval, measured values and unhealthy layers."""
    positions = np.arange(len(values))
    predicted = _drawable(values)
    bounds = np.array([interval or (np.nan, np.nan) for interval in intervals])
    low, high = (_drawable(bounds[:, column]) for column in (0, 1))
    if np.isfinite(low).any() or np.isfinite(high).any():
        ax.vlines(positions, low, high, color="0.6", linewidth=5, alpha=0.6, label="95 % of draws")
    ax.plot(positions, predicted, "-o", color=COLORS[0], markersize=4, label="predicted")
    if np.isfinite(_drawable(measured)).any():
        ax.plot(
            *(positions, _drawable(measured), "D"),
            color=COLORS[2],
            markerfacecolor="none",
            markersize=7,
            label="measured",
        )
    bad = np.array(unhealthy, dtype=bool)
    if bad.any():
        ax.plot(
            *(positions[bad], predicted[bad], "X"),
            color=COLORS[2],
            markersize=9,
            label="unhealthy",
        )
    ax.set_ylabel(label)
    use_log_scale(ax, [*values, *measured])
    ax.legend(
        *ax.get_legend_handles_labels(),
        fontsize="small",
        frameon=False,
        ncols=4,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
    )


def plot_factors(
    ax: Axes, factors: pd.DataFrame, total: Sequence[float], label: str, negligible: float
) -> None:
    """Draw the factors of every layer, a line per step, and their product."""
    positions = range(len(factors))
    ax.axhline(1.0, color="0.7", linewidth=0.8)
    ax.plot(positions, _drawable(total), "-", color="0.6", linewidth=4, label="measured / He")
    styles = zip(cycle(COLORS), cycle(MARKERS), cycle(DASHES), strict=False)
    for step, (color, marker, dash) in zip(factors, styles, strict=False):
        if ((factors[step] - 1).abs() < negligible).all():
            continue
        ax.plot(
            *(positions, _drawable(factors[step])),
            color=color,
            marker=marker,
            linestyle=dash,
            markersize=5,
            label=str(step),
        )
    ax.set_ylabel(label)
    use_log_scale(ax, [*total, *factors.to_numpy().ravel()])
    ax.legend(fontsize="small", frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def plot_rms(rows: pd.DataFrame, quantity: str, ax: Axes | None) -> Axes:
    """Draw the root of a second moment per layer; see `ProbeTable.plot`."""
    available = sorted({q for q in rows["quantity"] if q.endswith("_m2")})
    if quantity not in available:
        raise ConfigError(f"quantity={quantity}: {suggest(quantity, available)}")
    layers = rows[["layer", "layer_name"]].drop_duplicates().sort_values("layer")
    values = rows[rows["quantity"] == quantity].set_index("layer")["value"] ** 0.5
    values = values.reindex(layers["layer"])
    (axes,) = create_axes(1, len(layers), ax)
    axes.plot(range(len(layers)), _drawable(values), "-o", color=COLORS[0], markersize=4)
    axes.set_ylabel(RMS_LABELS.get(quantity, f"root of {quantity}"))
    use_log_scale(axes, values.tolist())
    label_layers(axes, layers["layer_name"].astype(str).tolist())
    return axes


def _format_minor(value: float, _: float) -> str:
    """Label the minor ticks 2, 3 and 5 times a power of ten."""
    return f"{value:g}" if f"{value:e}"[0] in "235" else ""


def _drawable(values: Sequence[float] | pd.Series | Mapping[str, float] | np.ndarray) -> Any:
    """Return values as an array in which those that a logarithmic axis cannot show are NaN."""
    array = np.asarray(values, dtype=float)
    return np.where(np.isfinite(array) & (array > 0), array, np.nan)
