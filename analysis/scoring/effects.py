"""Parts of effects that several studies share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.scoring.verdict import SEED, Effect


def per_seed(statistic: Callable[[pd.DataFrame], float]) -> Effect:
    """Return the effect that computes a statistic of the cells of each seed."""

    def effect(cells: pd.DataFrame) -> pd.Series:
        return pd.Series({seed: statistic(rows) for seed, rows in cells.groupby(SEED)}, dtype=float)

    return effect


def tuned(
    cells: pd.DataFrame, arms: Sequence[str], rate: str, loss: str, value: str | None = None
) -> pd.DataFrame:
    """Return an outcome of each arm at its tuned learning rate: a row per seed, a column per arm.

    The rate of a seed is the one with the smallest mean loss over the other seeds, so that the
    seed itself does not choose it. With a single seed, the seed chooses.

    Parameters
    ----------
    cells
        Networks with a column `seed`.
    arms
        Columns of the design that distinguish the arms; several give a tuple per arm.
    rate, loss
        Columns of the learning rate and of the loss by which it is tuned.
    value
        Column of the outcome; by default the loss.

    Examples
    --------
    >>> cells = pd.DataFrame({"seed": [0, 0, 1, 1], "init": "he", "lr": [0.1, 1.0] * 2,
    ...                       "loss": [0.3, 0.2, 0.1, 0.4]})
    >>> tuned(cells, ["init"], "lr", "loss")["he"].tolist()
    [0.3, 0.4]
    """
    table = cells.pivot_table(index=[SEED, *arms], columns=rate, values=loss)
    values = cells.pivot_table(index=[SEED, *arms], columns=rate, values=value or loss)
    by_seed = {}
    seeds = table.index.get_level_values(SEED).unique()
    for seed in seeds:
        others = table.drop(seed, level=SEED) if len(seeds) > 1 else table
        best = others.groupby(level=list(arms)).mean().idxmin(axis=1)
        own = values.xs(seed, level=SEED)
        by_seed[seed] = pd.Series({arm: own.at[arm, best[arm]] for arm in own.index})
    return pd.DataFrame(by_seed).T


def rank_correlation(x: pd.Series, y: pd.Series) -> float:
    """Return Spearman's rank correlation; 0 if one of them is constant.

    >>> rank_correlation(pd.Series([1.0, 2.0, np.inf]), pd.Series([5.0, 5.0, 5.0]))
    0.0
    """
    a, b = x.rank().to_numpy(), y.rank().to_numpy()
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def partial_rank_correlation(x: pd.Series, y: pd.Series, given: pd.Series) -> float:
    """Return the rank correlation of x and y after linear regression of both ranks on `given`."""
    z = given.rank().to_numpy()
    left, right = (_residual(values.rank().to_numpy(), z) for values in (x, y))
    scale = float(np.sqrt((left**2).sum() * (right**2).sum()))
    return float(left @ right) / scale if scale > 1e-9 * len(z) else 0.0


def _residual(values: np.ndarray, on: np.ndarray) -> np.ndarray:
    centred, given = values - values.mean(), on - on.mean()
    total = float(given @ given)
    return centred - given * (float(given @ centred) / total) if total else centred


def slope(x: pd.Series, y: pd.Series) -> float:
    """Return the least-squares slope of y against x."""
    return float(stats.linregress(x.to_numpy(float), y.to_numpy(float)).slope)


def rows_where(cells: pd.DataFrame, where: Mapping[str, Any]) -> pd.DataFrame:
    """Return the cells with these values; a list selects any of its values.

    >>> cells = pd.DataFrame({"init": ["he", "he", "xavier"], "lr": [0.1, 1.0, 0.1]})
    >>> rows_where(cells, {"init": "he", "lr": [0.1, 0.3]}).index.tolist()
    [0]
    """
    mask = pd.Series(True, index=cells.index)
    for column, value in where.items():
        mask &= cells[column].isin(value if isinstance(value, list | tuple) else [value])
    return cells[mask]


def difference(outcome: str, of: Mapping[str, Any], minus: Mapping[str, Any]) -> Effect:
    """Return the effect: mean outcome of some cells minus that of others, by seed.

    Examples
    --------
    >>> cells = pd.DataFrame({"seed": 0, "init": ["he", "xavier"], "loss": [0.2, 0.9]})
    >>> difference("loss", {"init": "xavier"}, {"init": "he"})(cells).tolist()
    [0.7]
    """

    def statistic(cells: pd.DataFrame) -> float:
        means = [float(rows_where(cells, where)[outcome].mean()) for where in (of, minus)]
        return means[0] - means[1]

    return per_seed(statistic)


def least(effects: Sequence[Effect]) -> Effect:
    """Return the smallest of several effects, by seed; NaN if one of them is not defined."""

    def effect(cells: pd.DataFrame) -> pd.Series:
        return pd.concat([one(cells) for one in effects], axis=1).min(axis=1, skipna=False)

    return effect


def explained_share(measured: pd.Series, predicted: pd.Series) -> float:
    """Return the share of the variance of a measurement that a prediction explains; at least 0.

    It is 0 if the measurement is constant.

    >>> explained_share(pd.Series([1.0, 2.0, 3.0]), pd.Series([1.0, 2.0, 3.0]))
    1.0
    >>> explained_share(pd.Series([1.0, 1.0]), pd.Series([1.0, 1.0]))
    0.0
    """
    total = float(((measured - measured.mean()) ** 2).sum())
    error = float(((measured - predicted) ** 2).sum())
    return max(0.0, 1 - error / total) if total else 0.0
