"""Coverage: fraction of draws inside theory's 95 % intervals, with a confidence interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Shaped
from numpy.typing import ArrayLike
from scipy import stats

from fanin.statistics.draw_distribution import NOMINAL, log_interval, predicted_mean_log

TOLERANCE = 0.02  # of `Coverage.is_outside`


@dataclass(frozen=True)
class Coverage:
    """Fraction of draws inside their intervals, with a 95 % confidence interval.

    Attributes
    ----------
    share
        Fraction of draws inside their interval.
    low, high
        Confidence interval of the fraction.
    draws, cells
        Number of draws and cells.
    expected
        Expected fraction if the prediction is right: 95 %, or more if some moments can be 0.
    """

    share: float
    low: float
    high: float
    draws: int
    cells: int
    expected: float = NOMINAL

    def is_outside(self, tolerance: float = TOLERANCE) -> bool:
        """Return True if the confidence interval excludes `expected` by more than a tolerance."""
        return self.high < self.expected - tolerance or self.low > self.expected + tolerance


def inside(
    log_moment: Float64[np.ndarray, " draw"],
    log_value: Float64[np.ndarray, " draw"],
    log_sd: Float64[np.ndarray, " draw"],
    zero_probability: ArrayLike = 0.0,
    log_skew: ArrayLike = 0.0,
) -> Bool[np.ndarray, " draw"]:
    """Return True where a draw lies between the 2.5 % and 97.5 % quantiles of its distribution.

    The interval is for one draw, not for a mean over draws. A draw of 0 has a log-moment of -inf;
    it is inside if its `zero_probability` is at least 2.5 %.
    """
    mean_log = predicted_mean_log(log_value, log_sd, zero_probability, log_skew)
    low, high = log_interval(mean_log, log_sd, zero_probability, log_skew)
    return np.asarray((low <= log_moment) & (log_moment <= high))


def coverage(
    hits: Bool[np.ndarray, " draw"],
    cell: Shaped[np.ndarray, " draw"],
    stream: Shaped[np.ndarray, " draw"],
    expected: ArrayLike = NOMINAL,
) -> Coverage:
    """Estimate the coverage with a confidence interval that allows for dependent draws.

    Layers, images and quantities of one draw have the same weights, the draws of a cell share the
    theory's error, and cells of one weight seed use the same random numbers. So the variance of the
    fraction is clustered by cell and by random stream (Cameron, Gelbach & Miller 2011, eq. 2.13).
    The interval is Wilson's, which stays within 0 and 1. Its sample size is the number of
    independent draws that would give the same variance.

    Parameters
    ----------
    hits
        Result of `inside`.
    cell
        Label of each draw's cell.
    stream
        Label of each draw's random stream: the weight seed and the draw.
    expected
        Probability of each draw's interval (`draw_distribution.interval_probability`).

    Returns
    -------
    Coverage
        The estimate; NaN without draws.

    Examples
    --------
    >>> hits = np.array([True] * 19 + [False])
    >>> result = coverage(hits, np.arange(20), np.arange(20))
    >>> result.share, round(result.low, 2), round(result.high, 2)
    (0.95, 0.74, 0.99)
    """
    draws = len(hits)
    if draws == 0:
        return Coverage(np.nan, np.nan, np.nan, 0, 0)
    share = float(np.mean(hits))
    residual = hits - share
    by_cell, cells = _codes(cell)
    by_stream, streams = _codes(stream)
    by_pair, pairs = _codes(by_cell * streams + by_stream)
    variance = (
        _clustered(residual, by_cell, cells)
        + _clustered(residual, by_stream, streams)
        - _clustered(residual, by_pair, pairs)
    )
    # The subtraction can give a variance that is too small or negative, so use at least the larger
    # of the two clustered variances.
    variance = max(
        variance, _clustered(residual, by_cell, cells), _clustered(residual, by_stream, streams)
    )
    # If all draws are inside, or all outside, the variance is unknown: count cells, not draws.
    size = share * (1 - share) / variance if variance > 0 else cells
    low, high = _wilson(share, min(size, draws), min(cells, streams))
    return Coverage(share, low, high, draws, cells, float(np.mean(np.asarray(expected, float))))


def _codes(labels: np.ndarray) -> tuple[np.ndarray, int]:
    distinct, codes = np.unique(labels, return_inverse=True)
    return codes, len(distinct)


def _clustered(residual: np.ndarray, codes: np.ndarray, clusters: int) -> float:
    """Return the variance of the mean if draws depend on each other only within a cluster."""
    if clusters < 2:
        return 0.0
    sums = np.bincount(codes, residual, clusters)
    return float(clusters / (clusters - 1) * (sums**2).sum() / len(residual) ** 2)


def _wilson(share: float, size: float, clusters: int) -> tuple[float, float]:
    t = stats.t.ppf((1 + NOMINAL) / 2, max(clusters - 1, 1))
    middle = (share + t**2 / (2 * size)) / (1 + t**2 / size)
    half = t / (1 + t**2 / size) * np.sqrt(share * (1 - share) / size + t**2 / (4 * size**2))
    return float(max(middle - half, 0.0)), float(min(middle + half, 1.0))
