"""Probability integral transform: a test of the whole predicted distribution of the draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Shaped
from numpy.typing import ArrayLike

from fanin.statistics import log_gamma
from fanin.statistics.draw_distribution import predicted_mean_log

LEVELS = 200  # the distance is evaluated at the multiples of 1/LEVELS
REPLICATES = 999  # of the bootstrap; the smallest p-value is 1/1000


@dataclass(frozen=True)
class UniformityTest:
    """Distance of transformed draws from the uniform distribution, with its p-value.

    Attributes
    ----------
    distance
        Kolmogorov-Smirnov distance: the largest difference between the share of draws below a level
        and the level. NaN without draws.
    p
        P-value of "the draws are uniform". NaN if the draws form a single cluster.
    """

    distance: float
    p: float


def probability_transform(
    log_moment: Float64[np.ndarray, " draw"],
    log_value: Float64[np.ndarray, " draw"],
    log_sd: Float64[np.ndarray, " draw"],
    zero_probability: ArrayLike = 0.0,
    log_skew: ArrayLike = 0.0,
) -> Float64[np.ndarray, " draw"]:
    """Return each draw's quantile in its predicted distribution: uniform if that is right.

    A draw of 0 (a log-moment of -inf) has the quantiles from 0 to `zero_probability`. It gets one
    of these at random, from a fixed seed: the randomized transform is uniform although the
    distribution has a jump (Smith 1985, Diagnostic checks of non-standard time series models).

    >>> probability_transform(np.array([-0.5]), np.array([0.0]), np.array([1.0]))
    array([0.5])
    """
    p = np.asarray(zero_probability, float)
    mean_log = predicted_mean_log(log_value, log_sd, p, log_skew)
    positive = log_gamma.cdf((log_moment - mean_log) / log_sd, log_skew)
    zero = np.random.default_rng(0).random(np.shape(log_moment)) * p
    return np.where(np.isneginf(log_moment), zero, p + (1 - p) * positive)


def uniformity(
    transformed: Float64[np.ndarray, " draw"],
    cell: Shaped[np.ndarray, " draw"],
    stream: Shaped[np.ndarray, " draw"],
) -> UniformityTest:
    """Test whether transformed draws are uniform, with a p-value that allows for dependent draws.

    Coverage alone can hide intervals that are too wide in some layers and too narrow in others; the
    distribution of the transformed draws shows both.

    Parameters
    ----------
    transformed
        Result of `probability_transform`.
    cell, stream
        Labels of each draw's cell and random stream, as for `fanin.statistics.coverage.coverage`.

    Returns
    -------
    UniformityTest
        The distance and its p-value.

    Notes
    -----
    The Kolmogorov distribution assumes independent draws, but the layers of a draw share its
    weights, and the draws of a cell share the theory's error. So each replicate of a bootstrap
    multiplies the deviation (share below each level, minus the level) of each cluster by a standard
    normal number; the deviations have mean 0 if the draws are uniform (multiplier bootstrap, van
    der Vaart and Wellner 1996, section 2.9). The p-value is the larger of two: clustered by cell
    and by stream. A clustering into a single cluster is not used.

    Examples
    --------
    >>> transformed = (np.arange(1000) + 0.5) / 1000
    >>> label = np.arange(1000)
    >>> uniformity(transformed, label, label).distance < 0.01
    True
    >>> uniformity(transformed**2, label, label).p
    0.001
    """
    if len(transformed) == 0:
        return UniformityTest(np.nan, np.nan)
    bins = np.minimum((transformed * LEVELS).astype(int), LEVELS - 1)
    deviations = [_deviations(bins, label) for label in (cell, stream)]
    distance = float(np.abs(deviations[0].sum(axis=0)).max())
    p_values = [_p_value(by_cluster, distance) for by_cluster in deviations if len(by_cluster) > 1]
    return UniformityTest(distance, max(p_values, default=np.nan))


def _deviations(bins: np.ndarray, label: np.ndarray) -> Float64[np.ndarray, "cluster level"]:
    """Return each cluster's part of the deviation from a uniform distribution, by level.

    The sum over clusters is, at each level, the share of draws below the level minus the level.
    """
    distinct, codes = np.unique(label, return_inverse=True)
    clusters = len(distinct)
    counts = np.bincount(codes * LEVELS + bins, minlength=clusters * LEVELS)
    below = counts.reshape(clusters, LEVELS).cumsum(axis=1)
    expected = below[:, -1:] * np.arange(1, LEVELS + 1) / LEVELS
    return np.asarray((below - expected) / len(bins))


def _p_value(by_cluster: np.ndarray, distance: float) -> float:
    normal = np.random.default_rng(0).standard_normal((REPLICATES, len(by_cluster)))
    distances = np.abs(normal @ by_cluster).max(axis=1)
    return float((1 + (distances >= distance).sum()) / (1 + REPLICATES))
