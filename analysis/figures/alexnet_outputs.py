"""Outputs of AlexNets with large uniform weights, with and without normalization."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.query import select
from analysis.figures.study import ClaimResult
from analysis.figures.style import PALETTE
from analysis.load import Results
from analysis.predictions import predict_cell
from analysis.settings import Setting
from fanin.errors import FaninError
from fanin.theory.layer_kind import UnpredictableLayer

SIZE = (6.8, 3.3)  # inches
INITS = {(0.0, 1.0): "U(0, 1)", (-1.0, 1.0): "U(-1, 1)", (-0.5, 0.5): "U(-0.5, 0.5)"}
STYLES: dict[str, dict[str, Any]] = {
    "none": {"color": "black", "marker": "o", "linestyle": "-"},
    "mean only": {"color": PALETTE[1], "marker": "s", "linestyle": (0, (4, 1.5))},
    "response": {"color": PALETTE[2], "marker": "^", "linestyle": (0, (1, 1))},
    "layer": {"color": PALETTE[0], "marker": "D", "linestyle": "-."},
    "batch": {"color": PALETTE[3], "marker": "v", "linestyle": (0, (6, 1, 1, 1, 1, 1))},
}
NORM_LABELS = {
    "none": "no normalization",
    "mean only": "means subtracted",
    "response": "local response normalization",
    "layer": "layer normalization",
    "batch": "batch normalization",
}


@dataclass(frozen=True)
class UniformAlexNet:
    """Measured and predicted E[y^2] of one AlexNet by layer.

    Attributes
    ----------
    init, norm
        A value of `INITS` and a key of `STYLES`.
    table
        One row per layer: `layer`, `layer_name`, `mean` and `se` over the draws, `theory` (theory
        `field`) and `theory_se`. The prediction is NaN if the theory has no formula.
    draws, images
        Number of draws and of probe images.
    fan_in
        fan_in of the output layer.
    """

    init: str
    norm: str
    table: pd.DataFrame
    draws: int
    images: int
    fan_in: int

    @property
    def size(self) -> float:
        """Measured root mean square of the outputs."""
        return float(self.table["mean"].iloc[-1] ** 0.5)

    @property
    def predicted(self) -> float:
        """Predicted root mean square of the outputs."""
        return float(self.table["theory"].iloc[-1] ** 0.5)

    def agrees(self, factor: float, se: float) -> bool:
        """Return True if each layer agrees with the theory.

        A layer agrees if it is within a factor of `factor`, or within `se` standard errors.
        """
        rows = self.table
        error = np.hypot(rows["se"] / rows["mean"], rows["theory_se"] / rows["theory"])
        deviation = np.abs(np.log(rows["mean"] / rows["theory"]))
        return bool((deviation <= np.maximum(np.log(factor), se * error)).all())


def load_networks(
    results: Results, measured: Sequence[tuple[Setting, pd.DataFrame]]
) -> list[UniformAlexNet]:
    """Read and predict the networks of the sweep's second grid.

    Parameters
    ----------
    measured
        The sweep's settings with their draws.

    Raises
    ------
    FaninError
        A network has not run yet.
    """
    networks = [
        _load_network(setting, draws) for setting, draws in measured if _is_uniform_alexnet(setting)
    ]
    finished = {(network.init, network.norm) for network in networks}
    missing = [(i, n) for i in INITS.values() for n in STYLES if (i, n) not in finished]
    if missing:
        init, norm = missing[0]
        raise FaninError(
            f"{results.folder.root}: {len(missing)} AlexNets with uniform weights have not run, "
            f"among them {init} with {NORM_LABELS[norm]}; run the rest of the sweep"
        )
    return networks


def caption(networks: list[UniformAlexNet]) -> str:
    """Describe the second figure."""
    return (
        f"Second: root mean square of the pre-activations for uniform weights, mean over "
        f"{networks[0].images} images and {networks[0].draws} draws (symbols) and theory `field` "
        "(lines; none for layer normalization in networks whose weights have a non-zero mean); "
        "dotted line: 1e6."
    )


def _is_uniform_alexnet(setting: Setting) -> bool:
    targets = [setting.config[group]["_target_"].rpartition(".")[2] for group in ("model", "init")]
    return targets == ["AlexNet", "Uniform"]


def _load_network(setting: Setting, draws: pd.DataFrame) -> UniformAlexNet:
    config = setting.config
    model, init = config["model"], config["init"]
    rows = select(draws[draws["layer"] > 0], quantity="preact_m2", image=-1)
    groups = rows.groupby(["layer", "layer_name"], observed=True)["value"]
    table = groups.agg(mean="mean", se="sem", draws="size").reset_index().sort_values("layer")
    try:
        predicted = predict_cell(config, ("field",), whole_set=True)
        frame = select(predicted, quantity="preact_m2", image=-1)
        theory = frame.set_index("layer")[["value", "sampling_se"]].reindex(table["layer"])
    except UnpredictableLayer:
        theory = pd.DataFrame({"value": np.nan, "sampling_se": np.nan}, index=table["layer"])
    table["theory"], table["theory_se"] = theory["value"].values, theory["sampling_se"].values
    return UniformAlexNet(
        INITS[float(init["a"]), float(init["b"])],
        "response" if model["lrn"] else str(model["norm"]).replace("_", " "),
        table,
        int(table["draws"].min()),
        int(config["probe"]["size"]),
        int(model["dense"]),
    )


def claim_results(
    networks: list[UniformAlexNet], criterion: Mapping[str, Any]
) -> Iterator[ClaimResult]:
    """Test which normalizations keep the outputs small."""
    factor, se, huge = (float(criterion[key]) for key in ("theory", "se", "huge"))
    by_key = {(network.init, network.norm): network for network in networks}
    for init, mean in (("U(0, 1)", "1/2"), ("U(-1, 1)", "0")):
        none, mean_only = by_key[init, "none"], by_key[init, "mean only"]
        yield ClaimResult(
            f"weights {init}, mean {mean}: root mean square of the outputs, with and without "
            "subtraction of each layer's mean",
            f"not small: {_size(mean_only.predicted)} with subtraction, {_size(none.predicted)} "
            "without (theory)",
            f"{_size(mean_only.size)} with subtraction, {_size(none.size)} without",
            mean_only.size > huge and mean_only.agrees(factor, se) and none.agrees(factor, se),
            threshold=f"above {huge:g} with subtraction; both {_near_theory(factor, se)}",
        )
    mean_only, zero_mean = by_key["U(0, 1)", "mean only"], by_key["U(-0.5, 0.5)", "none"]
    yield ClaimResult(
        "ratio of two networks' root mean square outputs: weights U(0, 1) with subtraction of each "
        "layer's mean / weights U(-0.5, 0.5) without normalization",
        "not 1, because subtraction does not remove the effect of the weights' mean: "
        f"{_size(mean_only.predicted / zero_mean.predicted)} (theory)",
        _size(mean_only.size / zero_mean.size),
        mean_only.size / zero_mean.size > huge,
        threshold=f"above {huge:g}",
    )
    for norm in ("response", "layer", "batch"):
        for init in ("U(0, 1)", "U(-1, 1)"):
            yield _normalization_claim(by_key[init, norm], factor, se, huge)


def _near_theory(factor: float, se: float) -> str:
    return f"within a factor of {factor:g} of theory, or {se:g} se"


def _size_threshold(
    network: UniformAlexNet, factor: float, se: float, huge: float, bound: float | None
) -> str:
    size = _near_theory(factor, se) if bound is None else f"at most {bound:.0f}"
    return size if network.norm == "response" else f"below {huge:g}; {size}"


def _normalization_claim(
    network: UniformAlexNet, factor: float, se: float, huge: float
) -> ClaimResult:
    is_predicted = np.isfinite(network.predicted)
    # After normalization and ReLU, the n inputs of the output layer have |x|^2 <= n. Its weights
    # have mean 1/2 and variance 1/12, so E[(w . x)^2] <= n^2 / 4 + n / 12.
    bound = (network.fan_in**2 / 4 + network.fan_in / 12) ** 0.5
    # We do not claim that response normalization keeps outputs small, only that theory predicts
    # them.
    small = network.size < huge or network.norm == "response"
    return ClaimResult(
        f"weights {network.init}, {NORM_LABELS[network.norm]}: root mean square of the outputs",
        f"{_size(network.predicted)} (theory)"
        if is_predicted
        else f"at most {bound:.0f} (closed form)",
        _size(network.size),
        small and (network.agrees(factor, se) if is_predicted else network.size <= bound),
        threshold=_size_threshold(network, factor, se, huge, bound if not is_predicted else None),
    )


def _size(value: float) -> str:
    return f"{value:.2g}"


def outputs_figure(networks: list[UniformAlexNet], huge: float) -> Figure:
    """Draw the root mean square of the pre-activations by layer, one panel per init."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots(1, len(INITS), sharey=True)
    for axis, init in zip(axes, INITS.values(), strict=True):
        for network in networks:
            if network.init == init:
                _draw_network(axis, network)
        axis.axhline(huge, color="0.4", linestyle=":", linewidth=0.8)
        axis.set_title(f"{init} weights", fontsize="small")
        axis.set_yscale("log")
        axis.minorticks_off()
        sns.despine(ax=axis)
    axes[0].set_ylabel(r"$\sqrt{\mathbb{E}[y_l^2]}$ (dimensionless)", fontsize="small")
    figure.supxlabel("weight layer $l$", fontsize="small")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize="x-small"
    )
    return figure


def _draw_network(axis: Axes, network: UniformAlexNet) -> None:
    style, rows = STYLES[network.norm], network.table
    axis.plot(
        rows["layer"], rows["theory"] ** 0.5,
        color=style["color"], linestyle=style["linestyle"], linewidth=1,
    )  # fmt: skip
    error = rows["se"] / (2 * rows["mean"] ** 0.5)  # standard error of the square root
    axis.errorbar(
        rows["layer"], rows["mean"] ** 0.5, yerr=error, linestyle="", marker=style["marker"],
        color=style["color"], markersize=4, markerfacecolor="none", linewidth=0.8,
    )  # fmt: skip
    axis.plot(
        [], [], **style, markersize=4, markerfacecolor="none", label=NORM_LABELS[network.norm]
    )
    axis.set_xticks(rows["layer"], rows["layer_name"], rotation=60, fontsize="x-small")
