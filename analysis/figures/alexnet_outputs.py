"""UniformAlexNet in the millions, and what is said to keep them down: an AlexNet with huge weights."""

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
    "none": "nothing",
    "mean only": "means subtracted",
    "response": "local response normalization",
    "layer": "layer normalization",
    "batch": "batch normalization",
}


@dataclass(frozen=True)
class UniformAlexNet:
    """One network: E[y^2] by layer, measured and predicted.

    Attributes
    ----------
    init, norm
        Keys of `INITS`' values and of `STYLES`.
    table
        `layer`, `layer_name`, `mean` and `se` over the draws, `theory` (theory `field`) and
        `theory_se`; NaN where it has no formula.
    draws, images
        How many.
    fan_in
        Of the output layer.
    """

    init: str
    norm: str
    table: pd.DataFrame
    draws: int
    images: int
    fan_in: int

    @property
    def size(self) -> float:
        """The networks' root mean square."""
        return float(self.table["mean"].iloc[-1] ** 0.5)

    @property
    def predicted(self) -> float:
        """The same by theory."""
        return float(self.table["theory"].iloc[-1] ** 0.5)

    def agrees(self, factor: float, se: float) -> bool:
        """Return True if every layer agrees with theory, within a factor or so many errors."""
        rows = self.table
        error = np.hypot(rows["se"] / rows["mean"], rows["theory_se"] / rows["theory"])
        off = np.abs(np.log(rows["mean"] / rows["theory"]))
        return bool((off <= np.maximum(np.log(factor), se * error)).all())


def networks(results: Results, measured: Sequence[tuple[Setting, pd.DataFrame]]) ->
list[UniformAlexNet]:
    """The networks of the second grid, predicted.

    Parameters
    ----------
    measured
        The sweep's settings with their draws.

    Raises
    ------
    FaninError
        One of them has not run.
    """
    found = [_load_network(setting, draws) for setting, draws in measured if _is_uniform_alexnet(setting)]
    there = {(each.init, each.norm) for each in found}
    missing = [(i, n) for i in INITS.values() for n in STYLES if (i, n) not in there]
    if missing:
        init, norm = missing[0]
        raise FaninError(
            f"{results.folder.root}: {len(missing)} AlexNets with uniform weights are missing, "
            f"the first {init} with {NORM_LABELS[norm]}: the sweep has not ended"
        )
    return found


def caption(found: list[UniformAlexNet]) -> str:
    """Setting and n."""
    return (
        f"Second: the same for uniform weights, mean over {found[0].images} images and "
        f"{found[0].draws} draws (symbols) and theory `field` of the theory (lines; none for layer "
        "normalization of weights with a mean); dotted: a million."
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
        frame = select(predict_cell(config, ("field",)), quantity="preact_m2", image=-1)
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


def claim_results(found: list[UniformAlexNet], criterion: Mapping[str, Any]) ->
Iterator[ClaimResult]:
    """Say what keeps the networks small."""
    factor, se, huge = (float(criterion[key]) for key in ("theory", "se", "huge"))
    by = {(each.init, each.norm): each for each in found}
    for init, mean in (("U(0, 1)", "1/2"), ("U(-1, 1)", "0")):
        none, only = by[init, "none"], by[init, "mean only"]
        yield ClaimResult(
            f"weights {init}, mean {mean}: root mean square of the networks with each layer's mean "
            "subtracted, and without",
            f"false that this keeps them down: {_size(only.predicted)} and "
            f"{_size(none.predicted)} (our theory)",
            f"{_size(only.size)} and {_size(none.size)}",
            only.size > huge and only.agrees(factor, se) and none.agrees(factor, se),
        )
    only, centred = by["U(0, 1)", "mean only"], by["U(-0.5, 0.5)", "none"]
    yield ClaimResult(
        "U(0, 1) with each layer's mean subtracted, over U(-0.5, 0.5) with nothing: networks",
        "false that it takes away what the weights' mean adds: "
        f"{_size(only.predicted / centred.predicted)} times (our theory)",
        f"{_size(only.size / centred.size)} times",
        only.size / centred.size > huge,
    )
    for norm in ("response", "layer", "batch"):
        for init in ("U(0, 1)", "U(-1, 1)"):
            yield _normalized(by[init, norm], factor, se, huge)


def _normalized(each: UniformAlexNet, factor: float, se: float, huge: float) -> ClaimResult:
    known = np.isfinite(each.predicted)
    # |x|^2 <= n behind a norm and ReLU, and (sum of n weights of mean 1/2)^2 at most.
    bound = (each.fan_in**2 / 4 + each.fan_in / 12) ** 0.5
    small = each.size < huge or each.norm == "response"  # of which nothing is claimed but theory
    return ClaimResult(
        f"weights {each.init}, {NORM_LABELS[each.norm]}: root mean square of the networks",
        f"{_size(each.predicted)} (our theory)" if known else f"at most {bound:.0f} (closed form)",
        _size(each.size),
        small and (each.agrees(factor, se) if known else each.size <= bound),
    )


def _size(value: float) -> str:
    return f"{value:.2g}"


def figure(found: list[UniformAlexNet], huge: float) -> Figure:
    """Root mean square of the pre-activations by layer, an init a panel."""
    made = Figure(figsize=SIZE, layout="constrained")
    axes = made.subplots(1, len(INITS), sharey=True)
    for axis, init in zip(axes, INITS.values(), strict=True):
        for each in found:
            if each.init == init:
                _line(axis, each)
        axis.axhline(huge, color="0.4", linestyle=":", linewidth=0.8)
        axis.set_title(f"{init} weights", fontsize="small")
        axis.set_yscale("log")
        axis.minorticks_off()
        sns.despine(ax=axis)
    axes[0].set_ylabel(r"$\sqrt{\mathbb{E}[y_l^2]}$ (dimensionless)", fontsize="small")
    made.supxlabel("weight layer $l$", fontsize="small")
    handles, labels = axes[0].get_legend_handles_labels()
    made.legend(
        handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize="x-small"
    )
    return made


def _line(axis: Axes, each: UniformAlexNet) -> None:
    style, rows = STYLES[each.norm], each.table
    axis.plot(
        rows["layer"], rows["theory"] ** 0.5,
        color=style["color"], linestyle=style["linestyle"], linewidth=1,
    )  # fmt: skip
    error = rows["se"] / (2 * rows["mean"] ** 0.5)  # of a square root
    axis.errorbar(
        rows["layer"], rows["mean"] ** 0.5, yerr=error, linestyle="", marker=style["marker"],
        color=style["color"], markersize=4, markerfacecolor="none", linewidth=0.8,
    )  # fmt: skip
    axis.plot([], [], **style, markersize=4, markerfacecolor="none", label=NORM_LABELS[each.norm])
    axis.set_xticks(rows["layer"], rows["layer_name"], rotation=60, fontsize="x-small")
