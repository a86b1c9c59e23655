"""What a test needs of many draws: their number, and mean and spread, plain and in logarithm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd


def summarized(draws: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Summarize the draws of each group.

    Parameters
    ----------
    draws
        A row per draw: `keys` and `value`, a moment of one draw.
    keys
        What draws of one group share.

    Returns
    -------
    pandas.DataFrame
        `keys`; `draws`, how many; `zeros` and `overflowed`, how many of them are 0 or not finite;
        `scale`, the largest magnitude (1 where that is 0 or infinite), and `mean` and `sd` in units
        of it, so that the squares of moments near 1e200 don't overflow; `mean_log` and `sd_log`, of
        the logarithms, NaN where some draw has none.

    Examples
    --------
    >>> frame = pd.DataFrame({"layer": [1, 1], "value": [1.0, np.e**2]})
    >>> summarized(frame, ["layer"])[["draws", "mean_log", "sd_log"]].round(3).values.tolist()
    [[2.0, 1.0, 1.414]]
    """
    value = draws["value"].to_numpy(float)
    magnitude = np.abs(value)
    groups = draws.groupby(list(keys), observed=True, sort=True)
    number = groups.ngroup().to_numpy()
    found = groups.size().rename("draws").reset_index()
    largest = _by_group(magnitude, number).max().to_numpy()
    scale = np.where(np.isfinite(largest) & (largest > 0), largest, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithm = np.log(value)
        usable = np.isfinite(logarithm)
        scaled = _by_group(np.where(np.isfinite(value), value / scale[number], np.nan), number)
        logs = _by_group(np.where(usable, logarithm, np.nan), number)
    complete = _by_group(usable, number).all().to_numpy()
    return found.assign(
        zeros=_by_group(value == 0, number).sum().to_numpy(),
        overflowed=_by_group(~np.isfinite(value), number).sum().to_numpy(),
        scale=scale,
        mean=scaled.mean().to_numpy(),
        sd=scaled.std(ddof=1).to_numpy(),
        mean_log=np.where(complete, logs.mean().to_numpy(), np.nan),
        sd_log=np.where(complete, logs.std(ddof=1).to_numpy(), np.nan),
    )


def _by_group(values: np.ndarray, number: np.ndarray) -> pd.api.typing.SeriesGroupBy:
    return pd.Series(values).groupby(number)
