"""Table queries shared by several figures: select rows, bracket an onset, loss at chance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64

from analysis.load import Results
from experiments.schema import build_cell
from fanin.probes.measure import WHOLE_NETWORK


def select(table: pd.DataFrame, **equal: Any) -> pd.DataFrame:
    """Return the rows in which each named column has the given value."""
    mask = pd.Series(True, index=table.index)
    for column, value in equal.items():
        mask &= table[column] == value
    return table[mask]


def bracket(
    values: Float64[np.ndarray, " value"], has: Bool[np.ndarray, " value"]
) -> tuple[float, float]:
    """Return the first value for which `has` is true, and the value before it.

    Parameters
    ----------
    values
        Positive values in ascending order.
    has
        Condition at each value.

    Returns
    -------
    tuple
        `(before, first)`. `before` is 0 if the condition is true at the first value; `first` is inf
        if the condition is true nowhere.

    Examples
    --------
    >>> bracket(np.array([1.0, 2.0, 4.0]), np.array([False, True, False]))
    (1.0, 2.0)
    >>> bracket(np.array([1.0, 2.0]), np.array([True, True]))
    (0.0, 1.0)
    >>> bracket(np.array([1.0, 2.0]), np.array([False, False]))
    (2.0, inf)
    """
    at = int(has.argmax()) if has.any() else len(values)
    below = float(values[at - 1]) if at else 0.0
    return below, float(values[at]) if at < len(values) else np.inf


def initial_sharpness(layers: pd.DataFrame) -> pd.Series:
    """Return the largest Hessian eigenvalue of each whole network at step 0, by cell id (string).

    Draw 0 of each cell is the network that is trained.
    """
    rows = select(layers, quantity="sharpness", layer=WHOLE_NETWORK, step=0, draw=0)
    return pd.Series(rows["value"].to_numpy(), index=rows["cell_id"].astype(str))


def chance_loss(results: Results) -> float:
    """Return the cross entropy of uniform class probabilities, log(classes), in nats."""
    line = next(iter(results.plan.values()))
    return float(np.log(build_cell(line["config"]).data.n_classes or 1))
