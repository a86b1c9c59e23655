"""Study `schoenholz2017`: largest depth at which a tanh network trains (Fig 5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from analysis.figures.study import ClaimResult, Study, read_planned_cells
from analysis.load import Results
from fanin.errors import FaninError
from fanin.theory.depth_scales import depth_scales

CLAIM = (
    "A network trains up to the depth to which a signal propagates. This depth is proportional to "
    "the depth scale xi_c(sigma_w^2) of the correlation, on both sides of the critical point."
)
SIZE = (4.6, 3.4)  # inches
FACTOR = 6.0  # the figure shows the curve FACTOR xi_c


def study(results: Results, criterion: Mapping[str, Any]) -> Study:
    """Compare the depths at which networks train with the theory's depth scale.

    Parameters
    ----------
    results
        Results of the sweep `schoenholz2017`.
    criterion
        `trained`: smallest test accuracy of a trained network. `shallow`, `deep`: networks of a
        depth below `shallow` xi_c must train, those above `deep` xi_c must not.
    """
    accuracy = _accuracy(results)
    if accuracy.empty:
        raise FaninError(f"{results.folder.root}: no network has been trained yet; run the sweep")
    cells = results.cells
    bias_var = float(cells["init.bias.std"].iloc[0]) ** 2
    scales = {var: depth_scales(torch.tanh, var, bias_var).xi_c for var in accuracy.columns}
    planned = read_planned_cells(results).configs
    gains = dict(zip(_axes(planned)["weight_var"], planned["init.gain"], strict=True))
    caption = (
        f"Tanh networks of width {int(cells['model.width'].iloc[0])} on "
        f"{int(cells['data.n_train'].iloc[0])} images of {cells['data'].iloc[0]}, "
        f"sigma_b^2 = {bias_var:.3g}, SGD, learning rate {cells['optim.lr'].iloc[0]:g}, momentum "
        f"{cells['optim.momentum'].iloc[0]:g}, {int(cells['train.steps'].iloc[0])} steps: test "
        f"accuracy, mean over {cells['seed'].nunique()} seeds. A network trains if its "
        f"accuracy is at least {criterion['trained']:g}. The claim holds if all networks less deep "
        f"than {criterion['shallow']:g} xi_c train, and none deeper than {criterion['deep']:g} "
        "xi_c does. xi_c: number of layers in which the distance of the correlation of two images "
        f"from its limit falls by a factor of e. Line: {FACTOR:g} xi_c (theory); the factor "
        f"{FACTOR:g} depends on the number of training steps."
    )
    return Study(
        CLAIM,
        {"schoenholz2017": _figure(accuracy, bias_var)},
        caption,
        tuple(_claim_results(accuracy, scales, gains, criterion)),
    )


def _accuracy(results: Results) -> pd.DataFrame:
    """Return the mean test accuracy over seeds: a row per depth, a column per sigma_w^2."""
    cells = results.cells
    if cells.empty:
        return pd.DataFrame()
    # A diverged network counts as not trained.
    accuracy = cells["test_accuracy"].where(cells["outcome"] == "ok", 0.0)
    trained = _axes(cells).assign(accuracy=accuracy)
    table = trained.pivot_table(index="depth", columns="weight_var", values="accuracy")
    planned = _axes(read_planned_cells(results).configs)
    # Combinations without a finished cell are NaN and stay white in the figure.
    return table.reindex(
        index=sorted(planned["depth"].unique()), columns=sorted(planned["weight_var"].unique())
    )


def _axes(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the depth and sigma_w^2 of each cell."""
    return pd.DataFrame(
        {
            "depth": cells["model.depth"].astype(int),
            "weight_var": (cells["init.gain"].astype(float) ** 2).round(4),
        }
    )


def _claim_results(
    accuracy: pd.DataFrame,
    scales: Mapping[float, float],
    gains: Mapping[float, float],
    criterion: Mapping[str, Any],
) -> Iterator[ClaimResult]:
    trained, shallow, deep = (float(criterion[k]) for k in ("trained", "shallow", "deep"))
    for weight_var, xi in scales.items():
        tested = accuracy[weight_var].dropna()
        depths, column = tested.index.to_numpy(float), tested.to_numpy(float)
        trained_depths = depths[column >= trained]
        deepest = trained_depths.max() if len(trained_depths) else 0.0
        must_train, must_not_train = depths < shallow * xi, depths > deep * xi
        yield ClaimResult(
            f"sigma_w^2 = {weight_var:.3g}: depth of the deepest network that trains",
            f"{FACTOR:g} xi_c = {_depth(FACTOR * xi)} (paper's theory)",
            f"{deepest:.0f} (tested: {', '.join(f'{d:.0f}' for d in depths) or 'none'})",
            bool(
                (column[must_train] >= trained).all() and (column[must_not_train] < trained).all()
            ),
            cells={"init.gain": gains[weight_var]},
            threshold=f"accuracy: at least {trained:g} below depth {_depth(shallow * xi)}, less "
            f"above depth {_depth(deep * xi)}",
        )


def _depth(value: float) -> str:
    return f"{value:.0f}" if np.isfinite(value) and value < 1e4 else "unbounded"


@cache
def _predicted_depths(weight_vars: tuple[float, ...], bias_var: float) -> list[float]:
    return [FACTOR * depth_scales(torch.tanh, var, bias_var).xi_c for var in weight_vars]


def _figure(accuracy: pd.DataFrame, bias_var: float) -> Figure:
    figure = Figure(figsize=SIZE, layout="constrained")
    axis = figure.subplots()
    depths, variances = accuracy.index.to_numpy(float), accuracy.columns.to_numpy(float)
    mesh = axis.pcolormesh(
        variances, depths, accuracy.to_numpy(float), cmap="cividis", vmin=0, vmax=1,
        shading="nearest",
    )  # fmt: skip
    bar = figure.colorbar(mesh, ax=axis)
    bar.set_label("test accuracy")
    low, high = axis.get_ylim()
    fine = np.linspace(variances.min(), variances.max(), 121)
    line = _predicted_depths(tuple(fine.tolist()), bias_var)
    axis.plot(fine, line, color="white", linewidth=3.0)
    axis.plot(fine, line, color="black", linewidth=1.4, label=rf"${FACTOR:g}\,\xi_c$ (theory)")
    axis.set_ylim(low, high)
    axis.set_xlabel(r"weight variance times fan_in, $\sigma_w^2$")
    axis.set_ylabel("depth $L$ (weight layers)")
    axis.legend(loc="upper right", fontsize="small")
    return figure
