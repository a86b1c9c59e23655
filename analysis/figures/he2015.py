"""Training loss of 22- and 30-layer ReLU networks, He's init beside Xavier's (He et al. 2015)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.query import (
    chance_loss,
    final_loss_ratio,
    plot_losses,
    smooth_losses,
    training_caption,
)
from analysis.figures.study import ClaimResult, Study
from analysis.figures.style import PALETTE
from analysis.load import Results

CLAIM = (
    "A 22-layer ReLU network converges from both inits, from He's earlier; a 30-layer one "
    "converges from He's and stalls from Xavier's."
)
SIZE = (6.6, 2.9)  # inches
STYLES: dict[str, tuple[str, str, Any]] = {
    "he_normal": ("He", PALETTE[0], "-"),
    "xavier_normal": ("Xavier", PALETTE[3], "--"),
}
LOSS_WINDOW = 25  # steps that a point of a curve is the mean of
SHALLOW, DEEP = 22, 30


def study(results: Results, criterion: Mapping[str, Any]) -> Study:
    """Say which networks trained.

    Parameters
    ----------
    results
        Of the sweep `he2015`.
    criterion
        `converged` and `stalled`: shares of the loss of chance_loss, below and above which a run's
        last loss counts as that.
    """
    curves = smooth_losses(results, ["model.depth", "init"], LOSS_WINDOW)
    of_guessing = chance_loss(results)
    last = final_loss_ratio(curves, ["model.depth", "init"], of_guessing)
    cells = results.cells
    caption = (
        f"Plain ReLU networks of 3 x 3 convolutions, {int(cells['model.width'].iloc[0])} channels, "
        f"{training_caption(results, LOSS_WINDOW)}"
    )
    figure = _figure(curves, of_guessing)
    return Study(CLAIM, {"he2015": figure}, caption, tuple(_claim_results(curves, last, criterion)))


def _claim_results(
    curves: pd.DataFrame, last: pd.Series, criterion: Mapping[str, Any]
) -> Iterator[ClaimResult]:
    converged, stalled = float(criterion["converged"]), float(criterion["stalled"])
    for depth, init, stalls in (
        (SHALLOW, "he_normal", False),
        (SHALLOW, "xavier_normal", False),
        (DEEP, "he_normal", False),
        (DEEP, "xavier_normal", True),
    ):
        shares = last.loc[depth, init]
        yield ClaimResult(
            f"{depth} layers, {STYLES[init][0]}: last training loss over that of chance_loss",
            f"{'stalls' if stalls else 'converges'} (their figure); "
            f"{'above' if stalls else 'below'} {stalled if stalls else converged:g}",
            ", ".join(f"{share:.3f}" for share in sorted(shares)),
            bool((shares > stalled).all() if stalls else (shares < converged).all()),
        )
    he, xavier = (_half_way(curves, init) for init in STYLES)
    yield ClaimResult(
        f"{SHALLOW} layers: steps until the loss is half that of the first {LOSS_WINDOW} steps",
        "He earlier (their figure)",
        f"He {_steps(he)}, Xavier {_steps(xavier)}",
        max(he) < min(xavier),
    )


def _half_way(curves: pd.DataFrame, init: str) -> list[float]:
    """Of each seed of the shallower network; inf where it never is."""
    mine = curves[(curves["model.depth"] == SHALLOW) & (curves["init"] == init)]
    found = []
    for _, run in mine.groupby("cell_id"):
        below = run.loc[run["loss"] < run["loss"].iloc[0] / 2, "step"]
        found.append(float(below.min()) if len(below) else float("inf"))
    return found


def _steps(values: list[float]) -> str:
    return ", ".join("never" if np.isinf(v) else f"{v:.0f}" for v in sorted(values))


def _figure(curves: pd.DataFrame, of_guessing: float) -> Figure:
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, (depth, mine) in zip(axes, curves.groupby("model.depth"), strict=True):
        for init, (_, color, dash) in STYLES.items():
            runs = mine[mine["init"] == init]
            plot_losses(axis, runs, of_guessing, color=color, linestyle=dash)
        axis.set_title(f"{depth:.0f} weight layers", fontsize="medium")
    axes[0].set_ylabel(r"training loss $\mathcal{L}$ (nats)")
    handles = [
        Line2D([], [], color=color, linestyle=dash, label=f"{name} init")
        for name, color, dash in STYLES.values()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)
    return figure
