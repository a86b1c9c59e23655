"""The first layer that overflows and the first loss: foretold by theory, and measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from analysis.figures.inf_loss.overflow import Foretold, Oracle, first_bad_layers
from analysis.figures.inf_loss.parts import cells_of, share
from analysis.figures.study import Headline
from analysis.figures.style import PALETTE
from analysis.load import Results
from experiments.sweep.store.plan_file import read_frozen

SIZE = (6.8, 3.6)  # inches
BEYOND = 80.0  # where "no layer" stands on the figure's axes
TICKS = (1, 2, 3, 5, 10, 20, 40)
LOOKS = {  # of a dtype: marker, size
    "float16": ("o", 26),
    "bfloat16": ("^", 30),
    "float32": ("s", 22),
}


def foretold(results: Results) -> pd.DataFrame:
    """The part `fates` of the sweep with theory's word.

    Returns
    -------
    pandas.DataFrame
        Its cells, and `layer`, `by_he` (first overflowing layer: 0 the input, NaN none), `finite`
        (is the first loss, by theory).
    """
    cells = cells_of(results, "fates")
    oracle, frozen = Oracle(), read_frozen(results.folder)
    said: list[Foretold] = [
        oracle.foretell(frozen[str(cell)]["config"]) for cell in cells["cell_id"]
    ]
    return cells.assign(
        layer=np.array([each.layer for each in said], float),  # None becomes NaN
        by_he=np.array([each.by_he for each in said], float),
        finite=[each.is_finite for each in said],
    )


def draws(results: Results, cells: pd.DataFrame) -> pd.DataFrame:
    """A row per network drawn: `model`, `dtype`, `layer`, `by_he` and `measured` (NaN: none).

    Cells whose input overflows are left out: there is no layer to foretell.
    """
    measured = first_bad_layers(results.layers).reset_index()
    about = cells[cells["layer"] != 0].assign(
        cell_id=lambda frame: frame["cell_id"].astype(str),
        model=lambda frame: frame["model"].astype(str),
        dtype=lambda frame: frame["train.dtype"].astype(str),
    )
    return measured.merge(about[["cell_id", "model", "dtype", "layer", "by_he"]], on="cell_id")


def headlines(
    cells: pd.DataFrame, networks: pd.DataFrame, criterion: Mapping[str, Any]
) -> Iterator[Headline]:
    """How far the measured layer lies from the foretold one, and whether the first loss is so."""
    within = int(criterion["layers"])
    for dtype, mine in networks.groupby("dtype", sort=False):
        some = mine[mine["layer"].notna() | mine["measured"].notna()]
        off = (some["measured"] - some["layer"]).abs().fillna(np.inf)
        yield Headline(
            f"{dtype}: first overflowing layer at step 0, {len(some)} networks in which one does",
            f"theory's, at most {within} off",
            f"the very layer in {share(int((off == 0).sum()), len(some))}, at most {within} off in "
            f"{share(int((off <= within).sum()), len(some))}",
            bool((off <= within).all()) if len(some) else None,
        )
    right = networks["by_he"].fillna(BEYOND) == networks["measured"].fillna(BEYOND)
    ours = networks["layer"].fillna(BEYOND) == networks["measured"].fillna(BEYOND)
    yield Headline(
        "the same by He's product formula, all dtypes and networks, those without overflow too",
        "the very layer more seldom (it leaves out weight means and saturation)",
        f"{share(int(right.sum()), len(right))}, theory here {share(int(ours.sum()), len(ours))}",
        bool(right.sum() < ours.sum()),
    )
    bad, told = cells["at_start"], ~cells["finite"]
    yield Headline(
        f"is the loss finite at step 0? {len(cells)} networks",
        f"theory is right in {float(criterion['foretold']):.0%}",
        f"right in {share(int((bad == told).sum()), len(cells))} ({int(bad.sum())} are not finite: "
        f"{int((bad & told).sum())} foretold; false alarms: {int((told & ~bad).sum())})",
        bool((bad == told).mean() >= float(criterion["foretold"])),
    )


def figure(networks: pd.DataFrame) -> Figure:
    """Measured against foretold layer, by this theory and by He's formula."""
    drawn = Figure(figsize=SIZE, layout="constrained")
    axes = drawn.subplots(1, 2, sharex=True, sharey=True)
    panels = {"layer": "this theory", "by_he": "He's product formula"}
    for axis, (column, words) in zip(axes, panels.items(), strict=True):
        _panel(axis, networks, column)
        axis.set_title(words, fontsize="medium")
        axis.set_xlabel("first layer to overflow, predicted")
        sns.despine(ax=axis)
    axes[0].set_ylabel("first layer to overflow, measured")
    handles, labels = axes[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside upper center", ncols=5, frameon=False, fontsize=7)
    return drawn


def _panel(axis: Axes, networks: pd.DataFrame, column: str) -> None:
    ends = np.array([1.0, 60.0])
    axis.plot(ends, ends, color="0.6", linewidth=0.8, zorder=0)
    axis.axhline(60.0, color="0.85", linewidth=0.8, zorder=0)
    axis.axvline(60.0, color="0.85", linewidth=0.8, zorder=0)
    told = networks.assign(x=networks[column].fillna(BEYOND), y=networks["measured"].fillna(BEYOND))
    for number, (dtype, (marker, size)) in enumerate(LOOKS.items()):
        mine = told[told["dtype"] == dtype]
        # Side by side, for dtypes of one range lie on each other.
        shift = 1 + 0.05 * (number - 1)
        for is_map, fill in ((False, "none"), (True, PALETTE[number])):
            here = mine[(mine["model"] != "mlp") == is_map]
            axis.scatter(
                here["x"] * shift, here["y"] * shift, s=size, marker=marker, linewidth=0.8,
                edgecolor=PALETTE[number], facecolor=fill, alpha=0.8,
                label=f"{dtype}, {'CNN' if is_map else 'MLP'}" if len(here) else None,
            )  # fmt: skip
    for which in ("x", "y"):
        axis.set(**{f"{which}scale": "log", f"{which}lim": (0.8, 110)})
        ticks = getattr(axis, f"{which}axis")
        ticks.set_ticks([*TICKS, BEYOND], [*map(str, TICKS), "none"])
        ticks.set_minor_locator(NullLocator())
