"""Training a tanh CNN of 100 layers, at the critical point and off it (Xiao et al. 2018)."""

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
    "Very deep tanh CNNs train from delta-orthogonal weights at the critical point, and not from "
    "Gaussian ones or off it."
)
SIZE = (5.2, 3.2)  # inches
LOSS_WINDOW = 10  # steps that a point of a curve is the mean of
KEYS = ["init", "init.gain"]
STYLES: dict[tuple[str, str], tuple[str, str, Any]] = {
    ("delta_orthogonal", "critical"): ("delta-orthogonal, critical", PALETTE[0], "-"),
    ("lecun_normal", "critical"): ("Gaussian, critical", PALETTE[3], "--"),
    ("delta_orthogonal", "ordered"): ("delta-orthogonal, ordered", PALETTE[2], "-."),
    ("delta_orthogonal", "chaotic"): ("delta-orthogonal, chaotic", PALETTE[4], ":"),
}
CRITICAL = 1.05  # sigma_w^2, at sigma_b^2 = 2.01e-5


def study(results: Results, criterion: Mapping[str, Any]) -> Study:
    """Say which networks trained.

    Parameters
    ----------
    results
        Of the sweep `xiao2018`.
    criterion
        `trained` and `stalled`: shares of the loss of chance_loss, below and above which a run's
        last loss counts as that.
    """
    curves = smooth_losses(results, KEYS, LOSS_WINDOW)
    curves = curves.assign(
        init=curves["init"].astype(str), phase=(curves["init.gain"].astype(float) ** 2).map(_phase)
    )
    of_guessing = chance_loss(results)
    last = final_loss_ratio(curves, ["init", "phase"], of_guessing)
    cells = results.cells
    caption = (
        f"Tanh CNNs of {int(cells['model.depth'].iloc[0]) - 1} layers of 3 x 3 convolutions, "
        f"{int(cells['model.width'].iloc[0])} channels, circular padding, "
        f"{training_caption(results, LOSS_WINDOW)}"
    )
    figure = _figure(curves, of_guessing)
    return Study(CLAIM, {"xiao2018": figure}, caption, tuple(_claim_results(last, criterion)))


def _phase(weight_var: float) -> str:
    if abs(weight_var - CRITICAL) < 0.01:
        return "critical"
    return "ordered" if weight_var < CRITICAL else "chaotic"


def _claim_results(last: pd.Series, criterion: Mapping[str, Any]) -> Iterator[ClaimResult]:
    trained, stalled = float(criterion["trained"]), float(criterion["stalled"])
    for (init, phase), (name, _, _) in STYLES.items():
        shares = last.loc[init, phase]
        trains = (init, phase) == ("delta_orthogonal", "critical")
        yield ClaimResult(
            f"{name}: last training loss over that of chance_loss",
            f"{'trains' if trains else 'does not train'} (their text); "
            f"{'below' if trains else 'above'} {trained if trains else stalled:g}",
            ", ".join(f"{share:.3f}" for share in sorted(shares)),
            bool((shares < trained).all() if trains else (shares > stalled).all()),
        )


def _figure(curves: pd.DataFrame, of_guessing: float) -> Figure:
    figure = Figure(figsize=SIZE, layout="constrained")
    axis = figure.subplots()
    for (init, phase), (_, color, dash) in STYLES.items():
        runs = curves[(curves["init"] == init) & (curves["phase"] == phase)]
        plot_losses(axis, runs, of_guessing, color=color, linestyle=dash)
    axis.set_ylabel(r"training loss $\mathcal{L}$ (nats)")
    handles = [
        Line2D([], [], color=color, linestyle=dash, label=name) for name, color, dash in
        STYLES.values()
    ]  # fmt: skip
    axis.legend(handles=handles, frameon=False, fontsize="small", loc="best")
    return figure
