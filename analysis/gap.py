"""Which lifted assumption closed which part of the gap between He's formula and the measurement."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd


def closed(table: pd.DataFrame, rungs: Sequence[str]) -> pd.DataFrame:
    """Split log(measured / first rung) into the steps from rung to rung and what is left.

    Parameters
    ----------
    table
        A row per layer, with `measured` and a column for each rung, as `analysis.comparison.table`.
    rungs
        From the lowest to the highest.

    Returns
    -------
    pandas.DataFrame
        With the table's index: `gap`, the whole; `closed/RUNG` for each rung but the first,
        log(RUNG / the rung below it that predicts this layer); `left`, log(measured / the highest
        rung that does). They add up to `gap`. NaN where a rung doesn't predict the layer.

    Examples
    --------
    >>> layers = pd.DataFrame({"measured": [8.0], "he": [1.0], "mean_field": [4.0]})
    >>> closed(layers, ["he", "mean_field"]).div(np.log(2)).round(6).values.tolist()
    [[3.0, 2.0, 1.0]]
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        # Means of signed quantities have no ratio.
        logs = np.log(table[["measured", *rungs]].astype(float))
        below = logs[list(rungs)].ffill(axis=1)
        found = {"gap": logs["measured"] - below[rungs[0]]}
        for lower, rung in pairwise(rungs):
            found[f"closed/{rung}"] = logs[rung] - below[lower]
        found["left"] = logs["measured"] - below[rungs[-1]]
    return pd.DataFrame(found, index=table.index)
