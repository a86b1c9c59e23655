"""Share of draws inside theory's 95 % intervals, with a confidence interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Shaped
from scipy import stats

NOMINAL = 0.95
Z = float(stats.norm.ppf((1 + NOMINAL) / 2))


@dataclass(frozen=True)
class Coverage:
    """A share of draws, with the 95 % interval of the share itself.

    Attributes
    ----------
    share
        Draws inside their interval, of all.
    low, high
        The share's interval.
    draws, cells
        What it was counted over.
    """

    share: float
    low: float
    high: float
    draws: int
    cells: int

    def misses(self, lowest: float = 0.93, highest: float = 0.97) -> bool:
        """Return True if the share is beyond doubt outside the band that is aimed at."""
        return self.high < lowest or self.low > highest


def inside(
    log_moment: Float64[np.ndarray, " draw"],
    log_value: Float64[np.ndarray, " draw"],
    log_sd: Float64[np.ndarray, " draw"],
) -> Bool[np.ndarray, " draw"]:
    """Return True where a draw's log-moment lies in its law's central 95 %.

    The interval is for *one* draw; that of a mean over draws is narrower.
    """
    return np.abs(log_moment - log_value + log_sd**2 / 2) <= Z * log_sd


def coverage(
    hits: Bool[np.ndarray, " draw"],
    cell: Shaped[np.ndarray, " draw"],
    stream: Shaped[np.ndarray, " draw"],
) -> Coverage:
    """Estimate coverage, with an interval that knows which draws go together.

    Layers, images and quantities of one draw share its weights; all draws of a cell share theory's
    error about that cell; and cells of one weight seed are made from the same random numbers. So
    the variance of the share is clustered both ways (Cameron, Gelbach & Miller 2011, eq. 2.13), and
    turned into an interval by Wilson's formula at the sample size that has this variance, which
    stays within 0 and 1.

    Parameters
    ----------
    hits
        As `inside` says.
    cell
        Which cell each draw belongs to.
    stream
        Which random numbers made it: the weight seed and the draw.

    Examples
    --------
    >>> hits = np.array([True] * 19 + [False])
    >>> found = coverage(hits, np.arange(20), np.arange(20))
    >>> found.share, round(found.low, 2), round(found.high, 2)
    (0.95, 0.74, 0.99)
    """
    draws = len(hits)
    if draws == 0:
        return Coverage(np.nan, np.nan, np.nan, 0, 0)
    share = float(np.mean(hits))
    residual = hits - share
    by_cell, cells = _codes(cell)
    by_stream, streams = _codes(stream)
    by_both, both = _codes(by_cell * streams + by_stream)
    variance = (
        _clustered(residual, by_cell, cells)
        + _clustered(residual, by_stream, streams)
        - _clustered(residual, by_both, both)
    )
    # A difference of estimates may come out too small, or negative: never below the larger part.
    variance = max(
        variance, _clustered(residual, by_cell, cells), _clustered(residual, by_stream, streams)
    )
    # All draws in, or all out, tell no variance; each cell is then taken for one observation.
    size = share * (1 - share) / variance if variance > 0 else cells
    low, high = _wilson(share, min(size, draws), min(cells, streams))
    return Coverage(share, low, high, draws, cells)


def _codes(labels: np.ndarray) -> tuple[np.ndarray, int]:
    distinct, codes = np.unique(labels, return_inverse=True)
    return codes, len(distinct)


def _clustered(residual: np.ndarray, codes: np.ndarray, clusters: int) -> float:
    """Of the mean, with whole clusters as the independent pieces."""
    if clusters < 2:
        return 0.0
    sums = np.bincount(codes, residual, clusters)
    return float(clusters / (clusters - 1) * (sums**2).sum() / len(residual) ** 2)


def _wilson(share: float, size: float, clusters: int) -> tuple[float, float]:
    t = stats.t.ppf((1 + NOMINAL) / 2, max(clusters - 1, 1))
    middle = (share + t**2 / (2 * size)) / (1 + t**2 / size)
    half = t / (1 + t**2 / size) * np.sqrt(share * (1 - share) / size + t**2 / (4 * size**2))
    return float(max(middle - half, 0.0)), float(min(middle + half, 1.0))
