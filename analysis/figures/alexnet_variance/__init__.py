"""Study `alexnet_variance`: He's product formula for AlexNets, and normalization."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from analysis.figures.alexnet_variance.cells import (
    DEPTH,
    FORMULA,
    LARGE_WEIGHTS,
    NORM_NAMES,
    TRAINING,
    summarize,
)
from analysis.figures.alexnet_variance.figures import caption, figures
from analysis.scoring.effects import (
    difference,
    explained_share,
    least,
    per_seed,
    rows_where,
    tuned,
)
from analysis.scoring.scored_study import ScoredStudy
from analysis.scoring.verdict import Effect

__all__ = ["STUDY"]
LARGE_INITS = ("U(0, 1)", "U(-1, 1)")
NONE, MEANS, LAYER, BATCH = NORM_NAMES.values()
PLAIN_DEPTH = {"part": DEPTH, "depth": 27}


def _theory_over_formula(direction: str) -> Callable[[pd.DataFrame], float]:
    """Return the share of the variance that theory explains minus that of He's formula."""

    def statistic(cells: pd.DataFrame) -> float:
        rows = rows_where(cells, {"part": FORMULA})
        measured = rows[f"log_{direction}"]
        shares = [explained_share(measured, rows[f"{by}_{direction}"]) for by in ("theory", "he")]
        return shares[0] - shares[1]

    return statistic


def _xavier_decay(cells: pd.DataFrame) -> float:
    """Return the change of log10 E[y^2] from the first to the last layer, He minus Xavier."""
    changes = []
    for init in ("He", "Xavier"):
        rows = rows_where(cells, {"part": FORMULA, "init": init}).sort_values("layer")
        if rows.empty:
            return float("nan")
        changes.append(float(rows["log_forward"].iloc[-1] - rows["log_forward"].iloc[0]))
    return changes[0] - changes[1]


def _large(init: str, of: str, minus: str) -> Effect:
    rows = {"part": LARGE_WEIGHTS, "init": init}
    return difference("log_output", {**rows, "norm": of}, {**rows, "norm": minus})


def _accuracy_difference(init: str, of: str, minus: str) -> Effect:
    """Return the difference of two normalizations' accuracies, each at its tuned learning rate."""

    def effect(cells: pd.DataFrame) -> pd.Series:
        rows = rows_where(cells, {"part": TRAINING, "init": init, "norm": [of, minus]})
        if rows["norm"].nunique() < 2:
            return pd.Series(float("nan"), index=cells["seed"].unique())
        by_norm = tuned(
            rows.assign(error=1 - rows["accuracy"]), ["norm"], "lr", "error", "accuracy"
        )
        return by_norm[of] - by_norm[minus]

    return effect


STUDY = ScoredStudy(
    summarize=summarize,
    outcomes=("log_forward", "log_backward", "log_output", "dead", "accuracy"),
    effects={
        "theory_over_formula": per_seed(_theory_over_formula("forward")),
        "theory_over_backward_formula": per_seed(_theory_over_formula("backward")),
        "xavier_decay": per_seed(_xavier_decay),
        "least_beyond_batch": least([_large(init, MEANS, BATCH) for init in LARGE_INITS]),
        "least_reduction_by_norm": least(
            [_large(init, NONE, norm) for init in LARGE_INITS for norm in (LAYER, BATCH)]
        ),
        "least_explosion": least(
            [
                difference(
                    "log_output", {**PLAIN_DEPTH, "init": more}, {**PLAIN_DEPTH, "init": less}
                )
                for more, less in (("U(-1, 1)", "He"), ("He", "N(0, 0.01²)"))
            ]
        ),
        "dead_with_depth": difference(
            "dead",
            {"part": DEPTH, "init": "He", "depth": 27},
            {"part": DEPTH, "init": "He", "depth": 3},
        ),
        "gain_of_subtracting_means": _accuracy_difference("He", MEANS, NONE),
        "layer_norm_over_subtracting_means": _accuracy_difference("U(0, 1)", LAYER, MEANS),
    },
    figures=figures,
    caption=caption,
)
