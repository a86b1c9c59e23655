"""Is a measured mean the predicted one? Estimates of log(measured / predicted), and their tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike
from scipy import stats

THEORY_DOF = 3  # theory's own sampling errors come from four independent repeats
AGREEMENT = 0.95  # confidence of each of the two one-sided tests of equivalence
POWER = 0.95  # of each of the same two, where a number of draws is asked for


@dataclass(frozen=True)
class LogRatio:
    """Estimates of log(measured / predicted), an entry per test.

    Attributes
    ----------
    value
        The estimate: a mean over independent draws.
    draw_sd
        Standard deviation of one draw's contribution, from the draws.
    draws
        How many there are. Units, positions and images of one network share its weights: they are
        no replicates.
    theory_se
        Standard error of the predicted logarithm, from the theory's own sampling.
    """

    value: Float64[np.ndarray, " test"]
    draw_sd: Float64[np.ndarray, " test"]
    draws: Float64[np.ndarray, " test"]
    theory_se: Float64[np.ndarray, " test"]

    @property
    def se(self) -> Float64[np.ndarray, " test"]:
        """Standard error of `value`: the draws' and the theory's, independent of each other."""
        return np.asarray(np.hypot(self._draws_se, self.theory_se))

    @property
    def dof(self) -> Float64[np.ndarray, " test"]:
        """Degrees of freedom (Welch 1947): draws - 1, fewer where the theory's error counts."""
        with np.errstate(divide="ignore", invalid="ignore"):
            share = (self._draws_se / self.se) ** 2
            dof = 1 / (share**2 / (self.draws - 1) + (1 - share) ** 2 / THEORY_DOF)
        return np.where(self.se > 0, dof, self.draws - 1.0)

    @property
    def _draws_se(self) -> Float64[np.ndarray, " test"]:
        return self.draw_sd / np.sqrt(self.draws)


def ratio_p_value(ratio: LogRatio) -> Float64[np.ndarray, " test"]:
    """Two-sided p-value of "the ratio is 1" (Student's t); NaN where one draw has no spread.

    Notes
    -----
    Exact for normal contributions, and near enough for sums over many units. Where one number that
    all units share makes log m as skewed as log chi^2_1, it rejects too often, the more so far out:
    with 64 draws a p of 0.05 is really 0.057, one of 2e-6 is 7e-5 (10^6 trials).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(ratio.value) / ratio.se
    # Draws that all say the same leave no doubt either way.
    t = np.where((ratio.se == 0) & (ratio.value == 0), 0.0, t)
    return np.asarray(2 * stats.t.sf(t, ratio.dof))


def is_equivalent(ratio: LogRatio, margin: float) -> np.ndarray:
    """Return True if two one-sided t-tests place the ratio between 1/margin and margin.

    Schuirmann (1987): that is where the 90 % interval of `ratio` lies within the margin. A layer
    off by just the margin passes in at most 5 % of cases. That *every* layer lies within it is a
    claim that needs no correction for many tests (Berger 1982).

    Parameters
    ----------
    margin
        A factor above 1, such as 1.1.
    """
    reach = np.abs(ratio.value) + stats.t.ppf(AGREEMENT, ratio.dof) * ratio.se
    return np.asarray(reach < np.log(margin))  # NaN is none


def draws_needed(
    ratio: LogRatio, margin: float, level: ArrayLike, *, spread: ArrayLike = np.nan
) -> Float64[np.ndarray, " test"]:
    r"""Estimate how many draws would decide, were the true ratio the estimated one.

    The fewer of two numbers, each for a power of 95 % a side (90 % in all where the ratio is 1):

    .. math:: N_{agree} = (z_{.95} + z_{.95})^2 \sigma^2 / (\delta - |\theta|)^2, \quad
              N_{differ} = (z_{1 - \alpha/2} + z_{.95})^2 \sigma^2 / \theta^2

    with theta the estimate, delta = log margin and sigma the spread of one draw; at theta = 0 the
    first is derivations.md's (section 5.4). A t-test in place of a normal one takes z^2 / 2 more
    (Guenther 1981). What the theory's own sampling error takes of the distance to be told apart,
    draws can't give back.

    Parameters
    ----------
    margin
        As in `is_equivalent`.
    level
        At which a single test rejects, after its share of a correction for many.
    spread
        The predicted spread of one draw. The larger of it and the draws' own is used.

    Returns
    -------
    numpy.ndarray
        Draws, more than there are; infinite where only a surer theory could decide, NaN where
        nothing tells the spread.
    """
    sigma = np.fmax(ratio.draw_sd, np.asarray(spread, float))
    off = np.abs(ratio.value)
    one_sided = stats.norm.ppf(AGREEMENT)
    two_sided = stats.norm.isf(np.asarray(level, float) / 2)
    room = np.maximum(np.log(margin) - off, 0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        agree = _draws(sigma, room, one_sided, ratio.theory_se)
        differ = _draws(sigma, off, two_sided, ratio.theory_se)
    needed = np.ceil(np.fmin(agree, differ))
    return np.where(np.isnan(sigma), np.nan, np.maximum(needed, ratio.draws + 1))


def _draws(
    sigma: np.ndarray, distance: np.ndarray, z: np.ndarray, theory_se: np.ndarray
) -> np.ndarray:
    left = (distance / (z + stats.norm.ppf(POWER))) ** 2 - theory_se**2
    return np.where(left > 0, sigma**2 / left + z**2 / 2, np.inf)
