"""Study `he2015`: training of 22- and 30-layer ReLU networks from He's and Xavier's init."""

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
    "A 22-layer ReLU network converges from both inits, earlier from He's. A 30-layer network "
    "converges from He's init and stalls from Xavier's."
)
SIZE = (6.6, 2.9)  # inches
STYLES: dict[str, tuple[str, str, Any]] = {
    "he_normal": ("He", PALETTE[0], "-"),
    "xavier_normal": ("Xavier", PALETTE[3], "--"),
}
LOSS_WINDOW = 25  # steps averaged per point of a curve
SHALLOW, DEEP = 22, 30


def study(results: Results, criterion: Mapping[str, Any]) -> Study:
    """Test which networks converge and which stall.

    Parameters
    ----------
    results
        Results of the sweep `he2015`.
    criterion
        Bounds on the final loss divided by the loss at chance. `converged`: upper bound of a run
        that converged. `stalled`: lower bound of a run that stalled.
    """
    curves = smooth_losses(results, ["model.depth", "init"], LOSS_WINDOW)
    loss_at_chance = chance_loss(results)
    final = final_loss_ratio(curves, ["model.depth", "init"], loss_at_chance)
    cells = results.cells
    caption = (
        f"Plain ReLU networks of 3 x 3 convolutions, {int(cells['model.width'].iloc[0])} channels, "
        f"{training_caption(results, LOSS_WINDOW)}"
    )
    figure = _figure(curves, loss_at_chance)
    return Study(
        CLAIM, {"he2015": figure}, caption, tuple(_claim_results(curves, final, criterion))
    )


def _claim_results(
    curves: pd.DataFrame, final: pd.Series, criterion: Mapping[str, Any]
) -> Iterator[ClaimResult]:
    converged, stalled = float(criterion["converged"]), float(criterion["stalled"])
    for depth, init, stalls in (
        (SHALLOW, "he_normal", False),
        (SHALLOW, "xavier_normal", False),
        (DEEP, "he_normal", False),
        (DEEP, "xavier_normal", True),
    ):
        shares = final.loc[depth, init]
        yield ClaimResult(
            f"{depth} layers, {STYLES[init][0]}: final training loss / loss at chance, by seed",
            f"{'stalls' if stalls else 'converges'} (paper's figure); "
            f"{'above' if stalls else 'below'} {stalled if stalls else converged:g}",
            ", ".join(f"{share:.3f}" for share in sorted(shares)),
            bool((shares > stalled).all() if stalls else (shares < converged).all()),
            threshold=f"above {stalled:g}" if stalls else f"below {converged:g}",
            cells={"model.depth": depth, "init": init},
        )
    he, xavier = (_steps_to_half_loss(curves, init) for init in STYLES)
    yield ClaimResult(
        f"{SHALLOW} layers: steps until the loss is half that of the first {LOSS_WINDOW} steps, by "
        "seed",
        "He earlier (paper's figure)",
        f"He: {_steps(he)}; Xavier: {_steps(xavier)}",
        max(he) < min(xavier),
        threshold="every He seed before every Xavier seed",
        cells={"model.depth": SHALLOW},
    )


def _steps_to_half_loss(curves: pd.DataFrame, init: str) -> list[float]:
    """Return the step at which each 22-layer run has half of its initial loss; inf if never."""
    rows = curves[(curves["model.depth"] == SHALLOW) & (curves["init"] == init)]
    steps = []
    for _, run in rows.groupby("cell_id"):
        below = run.loc[run["loss"] < run["loss"].iloc[0] / 2, "step"]
        steps.append(float(below.min()) if len(below) else float("inf"))
    return steps


def _steps(values: list[float]) -> str:
    return ", ".join("never" if np.isinf(v) else f"{v:.0f}" for v in sorted(values))


def _figure(curves: pd.DataFrame, loss_at_chance: float) -> Figure:
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, (depth, rows) in zip(axes, curves.groupby("model.depth"), strict=True):
        for init, (_, color, linestyle) in STYLES.items():
            runs = rows[rows["init"] == init]
            plot_losses(axis, runs, loss_at_chance, color=color, linestyle=linestyle)
        axis.set_title(f"{depth:.0f} weight layers", fontsize="medium")
    axes[0].set_ylabel(r"training loss $\mathcal{L}$ (nats)")
    handles = [
        Line2D([], [], color=color, linestyle=linestyle, label=f"{name} init")
        for name, color, linestyle in STYLES.values()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)
    return figure
