"""Study `xiao2018`: training of a 100-layer tanh CNN at and off the critical point."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

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
    "Very deep tanh CNNs train from delta-orthogonal weights at the critical point. They do not "
    "train from Gaussian weights or off the critical point."
)
SIZE = (5.2, 3.2)  # inches
LOSS_WINDOW = 10  # steps averaged per point of a curve
KEYS = ["init", "init.gain"]
STYLES: dict[tuple[str, str], tuple[str, str, Any]] = {
    ("delta_orthogonal", "critical"): ("delta-orthogonal, critical", PALETTE[0], "-"),
    ("lecun_normal", "critical"): ("Gaussian, critical", PALETTE[3], "--"),
    ("delta_orthogonal", "ordered"): ("delta-orthogonal, ordered", PALETTE[2], "-."),
    ("delta_orthogonal", "chaotic"): ("delta-orthogonal, chaotic", PALETTE[4], ":"),
}
CRITICAL = 1.05  # sigma_w^2, at sigma_b^2 = 2.01e-5


def study(results: Results, criterion: Mapping[str, Any]) -> Study:
    """Test which networks train.

    Parameters
    ----------
    results
        Results of the sweep `xiao2018`.
    criterion
        Bounds on the final loss divided by the loss at chance. `trained`: upper bound of a run that
        trained. `stalled`: lower bound of a run that did not.
    """
    curves = smooth_losses(results, KEYS, LOSS_WINDOW)
    curves = curves.assign(
        init=curves["init"].astype(str), phase=(curves["init.gain"].astype(float) ** 2).map(_phase)
    )
    loss_at_chance = chance_loss(results)
    final = final_loss_ratio(curves, ["init", "phase"], loss_at_chance)
    cells = results.cells
    caption = (
        f"Tanh CNNs of {int(cells['model.depth'].iloc[0]) - 1} layers of 3 x 3 convolutions, "
        f"{int(cells['model.width'].iloc[0])} channels, circular padding, "
        f"{training_caption(results, LOSS_WINDOW)}"
    )
    figure = _figure(curves, loss_at_chance)
    return Study(CLAIM, {"xiao2018": figure}, caption, tuple(_claim_results(final, criterion)))


def _phase(weight_var: float) -> str:
    if abs(weight_var - CRITICAL) < 0.01:
        return "critical"
    return "ordered" if weight_var < CRITICAL else "chaotic"


def _claim_results(final: pd.Series, criterion: Mapping[str, Any]) -> Iterator[ClaimResult]:
    trained, stalled = float(criterion["trained"]), float(criterion["stalled"])
    for (init, phase), (name, _, _) in STYLES.items():
        shares = final.loc[init, phase]
        trains = (init, phase) == ("delta_orthogonal", "critical")
        yield ClaimResult(
            f"{name}: final training loss / loss at chance, by seed",
            f"{'trains' if trains else 'does not train'} (paper's text); "
            f"{'below' if trains else 'above'} {trained if trains else stalled:g}",
            ", ".join(f"{share:.3f}" for share in sorted(shares)),
            bool((shares < trained).all() if trains else (shares > stalled).all()),
            threshold=f"below {trained:g}" if trains else f"above {stalled:g}",
            cells={"init": init},
        )


def _figure(curves: pd.DataFrame, loss_at_chance: float) -> Figure:
    figure = Figure(figsize=SIZE, layout="constrained")
    axis = figure.subplots()
    for (init, phase), (_, color, linestyle) in STYLES.items():
        runs = curves[(curves["init"] == init) & (curves["phase"] == phase)]
        plot_losses(axis, runs, loss_at_chance, color=color, linestyle=linestyle)
    axis.set_ylabel(r"training loss $\mathcal{L}$ (nats)")
    handles = [
        Line2D([], [], color=color, linestyle=linestyle, label=name) for name, color, linestyle in
        STYLES.values()
    ]  # fmt: skip
    axis.legend(handles=handles, frameon=False, fontsize="small", loc="best")
    return figure
