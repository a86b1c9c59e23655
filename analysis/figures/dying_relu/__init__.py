"""Study `dying_relu`: a ReLU that dies after one training step, and its remedies."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from analysis.figures.dying_relu.cells import (
    COMBINED,
    EARLY,
    FILTER_RATE,
    FIRST_STEP,
    OWN_BIAS,
    OWN_BIAS_FILTER_RATE,
    RAW,
    RECIPE,
    RECIPE_1,
    REPORTED,
    TANH,
    TRAINING,
    UNIT,
    summarize,
)
from analysis.figures.dying_relu.figures import caption, figures
from analysis.figures.query import bracket
from analysis.scoring.effects import least, per_seed, rows_where, slope, tuned
from analysis.scoring.scored_study import ScoredStudy
from analysis.scoring.verdict import Effect

__all__ = ["STUDY", "killing_rate"]

KILLING = 0.01  # smallest rate of all layers that is called too large, for inputs 0 to 1


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


def _trained(cells: pd.DataFrame, network: str, steps: int | None = None) -> pd.DataFrame:
    """Return the rows of a network after its last step, or after a step of `EARLY`."""
    rows = rows_where(cells, {"kind": TRAINING, "network": network})
    return rows[rows["steps"] == (steps or rows["steps"].max())]


def _best(
    network: str, inputs: str | None = None, steps: int | None = None, below: float = np.inf
) -> Effect:
    """Return the share of correct runs at the best rate, mean over input ranges, by seed."""

    def effect(cells: pd.DataFrame) -> pd.Series:
        rows = _trained(cells, network, steps)
        rows = rows[(rows["lr"] < below) & ((rows["inputs"] == inputs) | (inputs is None))]
        if rows.empty:
            return pd.Series(np.nan, index=cells["seed"].unique())
        rows = rows.assign(error=1 - rows["correct"])
        return tuned(rows, ["inputs"], "lr", "error", "correct").mean(axis=1)

    return effect


def _share(network: str, lr: float | None = None, inputs: str | None = None) -> Effect:
    """Return the share of correct runs over all learning rates, or at one of them, by seed."""

    def effect(cells: pd.DataFrame) -> pd.Series:
        rows = _trained(cells, network)
        rows = rows[(rows["lr"] == lr) | (lr is None)]
        rows = rows[(rows["inputs"] == inputs) | (inputs is None)]
        return rows.groupby("seed")["correct"].mean().reindex(cells["seed"].unique())

    return effect


def _minus(of: Effect, other: Effect) -> Effect:
    """Return the difference of two effects."""
    return lambda cells: of(cells) - other(cells)


SMALLER_RATE = _best(OWN_BIAS, UNIT, below=KILLING)

STUDY = ScoredStudy(
    summarize=summarize,
    outcomes=("correct", "dead", "dead_at_end"),
    effects={
        "rate_slope": per_seed(_rate_slope),
        "rate_error": per_seed(_rate_error),
        "filter_rate_gain": _minus(_share(FILTER_RATE), _share(REPORTED)),
        "smaller_rate_gain": least(
            [
                _minus(SMALLER_RATE, _share(OWN_BIAS, KILLING, UNIT)),
                _minus(SMALLER_RATE, _best(REPORTED, UNIT)),
            ]
        ),
        "steps_gain": least(
            [
                _minus(one, _best(OWN_BIAS, UNIT, EARLY[1]))
                for one in (SMALLER_RATE, _best(OWN_BIAS_FILTER_RATE, UNIT, EARLY[0]))
            ]
        ),
        "input_range_gain": _minus(_best(OWN_BIAS, UNIT), _best(OWN_BIAS, RAW)),
        "filter_rate_over_best_rate": _minus(_best(FILTER_RATE), _best(REPORTED)),
        "filter_rate_over_tanh": _minus(_best(FILTER_RATE), _best(TANH)),
        "combined_gain": _minus(_best(COMBINED), _best(REPORTED)),
        "recipe_gain": _minus(_best(RECIPE), _best(REPORTED)),
        "recipe_1_gain": _minus(_best(RECIPE_1), _best(REPORTED)),
        "channels_gain": _minus(_share(RECIPE), _share(RECIPE_1)),
    },
    figures=figures,
    caption=caption,
)
