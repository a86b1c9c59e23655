"""Depth to which a tanh network trains (Schoenholz et al. 2017, Fig 5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from analysis.figures.study import ClaimResult, Study
from analysis.load import Results
from fanin.errors import FaninError
from fanin.theory.depth_scales import depth_scales

CLAIM = (
    "A network trains where a signal can cross it: down to a depth that follows the correlation's "
    "depth scale xi_c(sigma_w^2), on both sides of the critical point."
)
SIZE = (4.6, 3.4)  # inches
TIMES = 6.0  # xi_c: the curve that is drawn over the map


def study(results: Results, criterion: Mapping[str, Any]) -> Study:
    """Hold what trained against theory's depth scale.

    Parameters
    ----------
    results
        Of the sweep `schoenholz2017`.
    criterion
        `trained`, the test accuracy from which on a network counts as trained; `shallow` and
        `deep`: depths below `shallow` xi_c are to train, those above `deep` xi_c are not to.
    """
    accuracy = _accuracy(results)
    if accuracy.empty:
        raise FaninError(f"{results.folder.root}: no network was trained yet")
    cells = results.cells
    bias_var = float(cells["init.bias.std"].iloc[0]) ** 2
    scales = {var: depth_scales(torch.tanh, var, bias_var).xi_c for var in accuracy.columns}
    caption = (
        f"Tanh networks of width {int(cells['model.width'].iloc[0])} on "
        f"{int(cells['data.n_train'].iloc[0])} images of {cells['data'].iloc[0]}, "
        f"sigma_b^2 = {bias_var:.3g}, SGD, learning rate {cells['optim.lr'].iloc[0]:g}, momentum "
        f"{cells['optim.momentum'].iloc[0]:g}, {int(cells['train.steps'].iloc[0])} steps: test "
        f"accuracy, mean over {cells['seed'].nunique()} seeds. Line: {TIMES:g} xi_c, from theory "
        "alone; the factor depends on the number of steps."
    )
    return Study(
        CLAIM,
        {"schoenholz2017": _figure(accuracy, bias_var)},
        caption,
        tuple(_claim_results(accuracy, scales, criterion)),
    )


def _accuracy(results: Results) -> pd.DataFrame:
    """Mean test accuracy over seeds: a row per depth, a column per sigma_w^2."""
    cells = results.cells
    if cells.empty:
        return pd.DataFrame()
    told = pd.DataFrame(
        {
            "depth": cells["model.depth"].astype(int),
            "weight_var": (cells["init.gain"].astype(float) ** 2).round(4),
            # A network that diverged has not trained.
            "accuracy": cells["test_accuracy"].where(cells["outcome"] == "ok", 0.0),
        }
    )
    return told.pivot_table(index="depth", columns="weight_var", values="accuracy")


def _claim_results(
    accuracy: pd.DataFrame, scales: Mapping[float, float], criterion: Mapping[str, Any]
) -> Iterator[ClaimResult]:
    trained, shallow, deep = (float(criterion[k]) for k in ("trained", "shallow", "deep"))
    depths = accuracy.index.to_numpy(float)
    for weight_var, xi in scales.items():
        column = accuracy[weight_var].to_numpy(float)
        reached = depths[column >= trained]
        deepest = reached.max() if len(reached) else 0.0
        should, never = depths < shallow * xi, depths > deep * xi
        yield ClaimResult(
            f"sigma_w^2 = {weight_var:.3g}: deepest network that trains",
            f"{TIMES:g} xi_c = {_depth(TIMES * xi)} (their theory)",
            f"{deepest:.0f} of {', '.join(f'{d:.0f}' for d in depths)}",
            bool((column[should] >= trained).all() and (column[never] < trained).all()),
        )


def _depth(value: float) -> str:
    return f"{value:.0f}" if np.isfinite(value) and value < 1e4 else "unbounded"


def _figure(accuracy: pd.DataFrame, bias_var: float) -> Figure:
    figure = Figure(figsize=SIZE, layout="constrained")
    axis = figure.subplots()
    depths, variances = accuracy.index.to_numpy(float), accuracy.columns.to_numpy(float)
    drawn = axis.pcolormesh(
        variances, depths, accuracy.to_numpy(float), cmap="cividis", vmin=0, vmax=1,
        shading="nearest",
    )  # fmt: skip
    bar = figure.colorbar(drawn, ax=axis)
    bar.set_label("test accuracy")
    low, high = axis.get_ylim()
    fine = np.linspace(variances.min(), variances.max(), 121)
    line = [TIMES * depth_scales(torch.tanh, float(v), bias_var).xi_c for v in fine]
    axis.plot(fine, line, color="white", linewidth=3.0)
    axis.plot(fine, line, color="black", linewidth=1.4, label=rf"${TIMES:g}\,\xi_c$ (theory)")
    axis.set_ylim(low, high)
    axis.set_xlabel(r"weight variance $\sigma_w^2$ (times fan-in)")
    axis.set_ylabel("depth $L$ (weight layers)")
    axis.legend(loc="upper right", fontsize="small")
    return figure
