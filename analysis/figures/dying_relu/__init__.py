"""Study `dying_relu`: a ReLU that dies after one training step, and its remedies."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from analysis.figures.dying_relu.cells import (
    COMBINED,
    FILTER_RATE,
    FIRST_STEP,
    OWN_BIAS,
    RECIPE,
    RECIPE_1,
    REPORTED,
    TANH,
    TRAINING,
    summarize,
)
from analysis.figures.dying_relu.figures import caption, figures
from analysis.figures.query import bracket
from analysis.scoring.effects import difference, per_seed, rows_where, slope, tuned
from analysis.scoring.scored_study import ScoredStudy
from analysis.scoring.verdict import Effect

__all__ = ["STUDY", "killing_rate"]


def killing_rate(cells: pd.DataFrame) -> float:
    """Return the smallest learning rate at which the first step on the cross kills.

    It is the geometric mean of the tested rates around it. Outside the grid, it is the first or
    the last tested rate.
    """
    ordered = cells.sort_values("lr")
    rates = ordered["lr"].to_numpy(float)
    below, first = bracket(rates, ordered["dead"].to_numpy(float) == 1)
    return float(np.sqrt((below or first) * (first if np.isfinite(first) else below)))


def _rates_by_side(cells: pd.DataFrame) -> Iterator[tuple[float, float, float]]:
    """Yield side, measured and predicted killing rate."""
    for side, rows in rows_where(cells, {"kind": FIRST_STEP}).groupby("side"):
        yield float(side), killing_rate(rows), float(rows["rate_predicted"].iloc[0])


def _rate_slope(cells: pd.DataFrame) -> float:
    sides, rates, _ = zip(*_rates_by_side(cells), strict=True)
    return slope(pd.Series(np.log(np.square(sides))), pd.Series(np.log(rates)))


def _rate_error(cells: pd.DataFrame) -> float:
    return float(np.mean([abs(np.log10(m / p)) for _, m, p in _rates_by_side(cells)]))


def _at_best_rate(cells: pd.DataFrame, network: str) -> pd.Series:
    """Return the share of correct runs at the best rate, mean over input ranges, by seed."""
    rows = rows_where(cells, {"kind": TRAINING, "network": network})
    if rows.empty:
        return pd.Series(np.nan, index=cells["seed"].unique())
    by_input = tuned(rows.assign(error=1 - rows["correct"]), ["inputs"], "lr", "error", "correct")
    return by_input.mean(axis=1)


def _best_gain(network: str, over: str) -> Effect:
    return lambda cells: _at_best_rate(cells, network) - _at_best_rate(cells, over)


def _gain(network: str, over: str) -> Effect:
    """Return the difference of the shares of correct runs over all learning rates."""
    rows = {"kind": TRAINING, "network": network}
    return difference("correct", rows, {"kind": TRAINING, "network": over})


STUDY = ScoredStudy(
    summarize=summarize,
    outcomes=("correct", "dead", "dead_at_end"),
    effects={
        "rate_slope": per_seed(_rate_slope),
        "rate_error": per_seed(_rate_error),
        "filter_rate_gain": _gain(FILTER_RATE, REPORTED),
        "filter_rate_over_best_rate": _best_gain(FILTER_RATE, REPORTED),
        "filter_rate_over_tanh": _best_gain(FILTER_RATE, TANH),
        "combined_gain": _best_gain(COMBINED, REPORTED),
        "bias_gain": _best_gain(OWN_BIAS, REPORTED),
        "recipe_gain": _best_gain(RECIPE, REPORTED),
        "channels_gain": _gain(RECIPE, RECIPE_1),
    },
    figures=figures,
    caption=caption,
)
