"""Test accuracy of a thin deep network by init and activation (Mishkin and Matas 2016)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.compare.spec import get_metric
from analysis.figures.study import ClaimResult, Study
from analysis.load import Results
from experiments.sweep.store.plan_file import read_plan
from fanin.errors import FaninError
from fanin.statistics.interval import mean_interval

CLAIM = (
    "Inits from orthonormal matrices beat scaled Gaussian ones for all activations but tanh, LSUV "
    "beats plain orthonormal, and sigmoid networks train from none of the four."
)
SIZE = (4.6, 3.2)  # inches
INITS = {
    "lsuv": "LSUV",
    "orthogonal": "orthonormal",
    "xavier_normal": "Xavier",
    "he_normal": "He (MSRA)",
}
ACTIVATIONS = {
    "maxout": "maxout",
    "relu": "ReLU",
    "leaky_relu": "very leaky ReLU",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
}
WORKS = ("maxout", "relu", "leaky_relu")  # of which better accuracies are claimed
DARK = 0.6  # accuracies above it are written in black


def study(results: Results, criterion: Mapping[str, Any]) -> Study:
    """Say which init trained better, activation by activation.

    Parameters
    ----------
    results
        Of the sweep `mishkin2016`.
    criterion
        `trained`: the accuracy below which a network counts as untrained; `confidence`: of the
        intervals over seeds that have to exclude 0 for one init to be better than another.

    Raises
    ------
    FaninError
        Some combination has no two seeds that ended.
    """
    accuracy = _accuracies(results)
    cells = results.cells
    caption = (
        f"17 convolutions (FitNet-4 at {int(cells['model.width'].iloc[0])} channels) on "
        f"{int(cells['data.n_train'].iloc[0])} images of {cells['data'].iloc[0]} after "
        f"{int(cells['train.steps'].iloc[0])} steps of SGD with momentum: test accuracy, mean and "
        f"standard error over {accuracy['seed'].nunique()} seeds."
    )
    lines = tuple(_claim_results(accuracy, criterion))
    return Study(CLAIM, {"mishkin2016": _figure(accuracy)}, caption, lines)


def _accuracies(results: Results) -> pd.DataFrame:
    """A row per cell: `activation`, `init`, `seed`, `accuracy`, in which a diverged run guesses."""
    cells = results.cells
    done = cells[cells["outcome"].isin(["ok", "diverged"])]
    config = next(iter(read_plan(results.folder).values()))["config"]
    guess = get_metric("test_accuracy").chance_score(config)
    frame = pd.DataFrame(
        {
            "activation": done["activation"].astype(str),
            "init": done["init"].astype(str),
            "seed": done["seed"].astype(int),
            "accuracy": done["test_accuracy"].astype(float).where(done["outcome"] == "ok", guess),
        }
    )
    count = frame.groupby(["activation", "init"]).size()
    for activation in ACTIVATIONS:
        for init in INITS:
            if count.get((activation, init), 0) < 2:
                raise FaninError(
                    f"{results.folder.root}: {activation} with {init} has not ended in two seeds"
                )
    return frame


def _claim_results(accuracy: pd.DataFrame, criterion: Mapping[str, Any]) -> Iterator[ClaimResult]:
    by_seed = accuracy.pivot_table(index=["activation", "seed"], columns="init", values="accuracy")
    confidence = float(criterion["confidence"])
    for activation in (*WORKS, "tanh"):
        mine = by_seed.loc[activation]
        orthonormal = mine[["lsuv", "orthogonal"]].mean(axis=1)
        gaussian = mine[["xavier_normal", "he_normal"]].mean(axis=1)
        is_claimed = activation in WORKS
        told, better = _difference(orthonormal - gaussian, confidence)
        yield ClaimResult(
            f"{ACTIVATIONS[activation]}: orthonormal-based less scaled Gaussian, test accuracy",
            "better (their text)" if is_claimed else "not better (their text)",
            told,
            better if is_claimed or better is None else not better,
            undecided=better is None,
        )
    for activation in WORKS:
        mine = by_seed.loc[activation]
        told, better = _difference(mine["lsuv"] - mine["orthogonal"], confidence)
        yield ClaimResult(
            f"{ACTIVATIONS[activation]}: LSUV less orthonormal, test accuracy",
            "better (their text)",
            told,
            better,
            undecided=better is None,
        )
    trained = float(criterion["trained"])
    for init, name in INITS.items():
        reached = by_seed.loc["sigmoid"][init]
        yield ClaimResult(
            f"sigmoid, {name}: best test accuracy of {len(reached)} seeds",
            f"does not train (their text); below {trained:g}",
            f"{reached.max():.3f}",
            bool(reached.max() < trained),
        )


def _difference(values: pd.Series, confidence: float) -> tuple[str, bool | None]:
    """A mean difference in words, and whether it is above 0; None where seeds can't tell.

    >>> _difference(pd.Series([0.1, 0.12, 0.11]), 0.95)
    ('+0.110 (+0.085 to +0.135)', True)
    >>> _difference(pd.Series([0.1, -0.12, 0.11]), 0.95)
    ('+0.030 (-0.293 to +0.353), undecided', None)
    """
    found = values.dropna()
    if len(found) < 2:
        return "too few seeds, undecided", None
    mean = mean_interval(found, confidence)
    told = f"{mean.value:+.3f} ({mean.low:+.3f} to {mean.high:+.3f})"
    if mean.low <= 0 <= mean.high:
        return f"{told}, undecided", None
    return told, mean.value > 0


def _figure(accuracy: pd.DataFrame) -> Figure:
    figure = Figure(figsize=SIZE, layout="constrained")
    axis = figure.subplots()
    groups = accuracy.groupby(["activation", "init"])["accuracy"]
    mean = groups.mean().unstack().loc[list(ACTIVATIONS), list(INITS)]
    se = groups.sem().unstack().loc[list(ACTIVATIONS), list(INITS)]
    image = axis.imshow(mean, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(mean.to_numpy()):
        axis.text(
            column, row, f"{value:.3f}\n± {se.iat[row, column]:.3f}", ha="center", va="center",
            fontsize="small", color="black" if value > DARK else "white",
        )  # fmt: skip
    axis.set_xticks(range(len(INITS)), list(INITS.values()))
    axis.set_yticks(range(len(ACTIVATIONS)), list(ACTIVATIONS.values()))
    axis.set_xlabel("init of the weights")
    axis.set_ylabel("activation")
    figure.colorbar(image, ax=axis, label="test accuracy (share of images)")
    return figure
