"""Study `mishkin2016`: test accuracy of a thin deep network by init and activation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.compare.spec import get_metric
from analysis.figures.study import ClaimResult, Study
from analysis.load import Results
from fanin.errors import FaninError
from fanin.statistics.interval import mean_interval

CLAIM = (
    "Orthonormal inits give higher accuracy than scaled Gaussian inits for all activations except "
    "tanh. LSUV gives higher accuracy than plain orthonormal inits. Sigmoid networks train from "
    "none of these inits."
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
ORTHONORMAL_BETTER = ("maxout", "relu", "leaky_relu")  # as the paper claims
BLACK_TEXT_FROM = 0.6  # accuracy above which the text of a box is black


def study(results: Results, criterion: Mapping[str, Any]) -> Study:
    """Test which inits give higher test accuracies, for each activation.

    Parameters
    ----------
    results
        Results of the sweep `mishkin2016`.
    criterion
        `trained`: accuracy below which a network counts as untrained. `confidence`: confidence of
        the interval over seeds; one init is better than another if the interval excludes 0.

    Raises
    ------
    FaninError
        A combination of activation and init has fewer than two finished seeds.
    """
    accuracy = _accuracies(results)
    cells = results.cells
    caption = (
        f"FitNet-4 with 17 convolutions of {int(cells['model.width'].iloc[0])} channels on "
        f"{int(cells['data.n_train'].iloc[0])} images of {cells['data'].iloc[0]} after "
        f"{int(cells['train.steps'].iloc[0])} steps of SGD with momentum: test accuracy, mean and "
        f"standard error over {accuracy['seed'].nunique()} seeds. Orthonormal inits: "
        "orthogonal and LSUV; scaled Gaussian: Xavier and He. In the table, a difference is paired "
        f"over seeds, with its {criterion['confidence']:.0%} interval; it is undecided if the "
        "interval contains 0."
    )
    lines = tuple(_claim_results(accuracy, criterion))
    return Study(CLAIM, {"mishkin2016": _figure(accuracy)}, caption, lines)


def _accuracies(results: Results) -> pd.DataFrame:
    """Return the test accuracy of each cell; a run that diverged counts as chance."""
    cells = results.cells
    done = cells[cells["outcome"].isin(["ok", "diverged"])]
    config = next(iter(results.plan.values()))["config"]
    chance = get_metric("test_accuracy").chance_score(config)
    frame = pd.DataFrame(
        {
            "activation": done["activation"].astype(str),
            "init": done["init"].astype(str),
            "seed": done["seed"].astype(int),
            "accuracy": done["test_accuracy"].astype(float).where(done["outcome"] == "ok", chance),
        }
    )
    count = frame.groupby(["activation", "init"]).size()
    for activation in ACTIVATIONS:
        for init in INITS:
            if count.get((activation, init), 0) < 2:
                raise FaninError(
                    f"{results.folder.root}: {activation} with {init} has fewer than two finished "
                    "seeds; run the rest of the sweep"
                )
    return frame


def _claim_results(accuracy: pd.DataFrame, criterion: Mapping[str, Any]) -> Iterator[ClaimResult]:
    by_seed = accuracy.pivot_table(index=["activation", "seed"], columns="init", values="accuracy")
    confidence = float(criterion["confidence"])
    for activation in (*ORTHONORMAL_BETTER, "tanh"):
        rows = by_seed.loc[activation]
        orthonormal = rows[["lsuv", "orthogonal"]].mean(axis=1)
        gaussian = rows[["xavier_normal", "he_normal"]].mean(axis=1)
        is_claimed = activation in ORTHONORMAL_BETTER
        text, better = _difference(orthonormal - gaussian, confidence)
        yield ClaimResult(
            f"{ACTIVATIONS[activation]}: test accuracy, orthonormal inits minus scaled Gaussian",
            "better (paper's text)" if is_claimed else "not better (paper's text)",
            text,
            better if is_claimed or better is None else not better,
            undecided=better is None,
            threshold=f"{confidence:.0%} interval {'above' if is_claimed else 'below'} 0",
            cells={"activation": activation},
        )
    for activation in ORTHONORMAL_BETTER:
        rows = by_seed.loc[activation]
        text, better = _difference(rows["lsuv"] - rows["orthogonal"], confidence)
        yield ClaimResult(
            f"{ACTIVATIONS[activation]}: test accuracy, LSUV minus orthonormal",
            "better (paper's text)",
            text,
            better,
            undecided=better is None,
            threshold=f"{confidence:.0%} interval above 0",
            cells={"activation": activation},
        )
    trained = float(criterion["trained"])
    for init, name in INITS.items():
        accuracies = by_seed.loc["sigmoid"][init]
        yield ClaimResult(
            f"sigmoid, {name}: best test accuracy of {len(accuracies)} seeds",
            f"does not train (paper's text); below {trained:g}",
            f"{accuracies.max():.3f}",
            bool(accuracies.max() < trained),
            threshold=f"below {trained:g}",
            cells={"activation": "sigmoid", "init": init},
        )


def _difference(values: pd.Series, confidence: float) -> tuple[str, bool | None]:
    """Format a mean difference; return True if it is above 0, None if the seeds cannot decide.

    >>> _difference(pd.Series([0.1, 0.12, 0.11]), 0.95)
    ('+0.110 (+0.085 to +0.135)', True)
    >>> _difference(pd.Series([0.1, -0.12, 0.11]), 0.95)
    ('+0.030 (-0.293 to +0.353), undecided', None)
    """
    valid = values.dropna()
    if len(valid) < 2:
        return "too few seeds, undecided", None
    mean = mean_interval(valid, confidence)
    text = f"{mean.value:+.3f} ({mean.low:+.3f} to {mean.high:+.3f})"
    if mean.low <= 0 <= mean.high:
        return f"{text}, undecided", None
    return text, mean.value > 0


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
            fontsize="small", color="black" if value > BLACK_TEXT_FROM else "white",
        )  # fmt: skip
    axis.set_xticks(range(len(INITS)), list(INITS.values()))
    axis.set_yticks(range(len(ACTIVATIONS)), list(ACTIVATIONS.values()))
    axis.set_xlabel("init scheme")
    axis.set_ylabel("activation")
    figure.colorbar(image, ax=axis, label="test accuracy (share of images)")
    return figure
