"""Estimates of log(measured / predicted) and tests of whether it is 0."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike
from scipy import stats

THEORY_DOF = 3  # theory estimates its sampling error from four independent repeats
AGREEMENT = 0.95  # confidence level of each of the two one-sided tests of equivalence
POWER = 0.95  # power of each of these tests with the number of draws from `draws_needed`


@dataclass(frozen=True)
class LogRatio:
    """Estimates of log(measured / predicted), one entry per test.

    Attributes
    ----------
    value
        The estimate, a mean over independent draws.
    draw_sd
        Standard deviation over draws of the numbers whose mean is `value`.
    draws
        Number of draws. (Units, positions and images of one network share its weights, so they are
        not replicates.)
    theory_se
        Standard error of log(predicted) caused by the theory's own sampling.
    """

    value: Float64[np.ndarray, " test"]
    draw_sd: Float64[np.ndarray, " test"]
    draws: Float64[np.ndarray, " test"]
    theory_se: Float64[np.ndarray, " test"]

    @property
    def se(self) -> Float64[np.ndarray, " test"]:
        """Standard error of `value`, from the draws and the theory, which are independent."""
        return np.asarray(np.hypot(self._draws_se, self.theory_se))

    @property
    def dof(self) -> Float64[np.ndarray, " test"]:
        """Degrees of freedom (Welch 1947): draws - 1, or fewer if the theory's error matters."""
        with np.errstate(divide="ignore", invalid="ignore"):
            share = (self._draws_se / self.se) ** 2
            dof = 1 / (share**2 / (self.draws - 1) + (1 - share) ** 2 / THEORY_DOF)
        return np.where(self.se > 0, dof, self.draws - 1.0)

    @property
    def _draws_se(self) -> Float64[np.ndarray, " test"]:
        return self.draw_sd / np.sqrt(self.draws)


def ratio_p_value(ratio: LogRatio) -> Float64[np.ndarray, " test"]:
    """Return the two-sided p-value of "the ratio is 1" (Student's t); NaN for a single draw.

    Notes
    -----
    The test is exact if the logarithm of a draw's moment m is normal, and accurate if m is a sum
    over many units. If all units share one random number, log m can be as skewed as log chi^2_1,
    and the test rejects too often, most of all at small p-values: with 64 draws, a p-value of 0.05
    should be 0.057, and one of 2e-6 should be 7e-5 (10^6 trials).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(ratio.value) / ratio.se
    # With zero spread, the p-value is 1 if the ratio is exactly 1, otherwise 0.
    t = np.where((ratio.se == 0) & (ratio.value == 0), 0.0, t)
    return np.asarray(2 * stats.t.sf(t, ratio.dof))


def is_equivalent(ratio: LogRatio, margin: float) -> np.ndarray:
    """Return True where two one-sided t-tests show a ratio between 1/margin and margin.

    This is equivalent to a 90 % confidence interval within the margin (Schuirmann 1987). A layer
    with a ratio equal to the margin passes in at most 5 % of cases. The claim that *all* layers lie
    within the margin needs no correction for multiple tests (Berger 1982).

    Parameters
    ----------
    ratio
        The estimates.
    margin
        A factor above 1, such as 1.1.

    Returns
    -------
    numpy.ndarray
        One boolean per test; False where the estimate is NaN.
    """
    bound = np.abs(ratio.value) + stats.t.ppf(AGREEMENT, ratio.dof) * ratio.se
    return np.asarray(bound < np.log(margin))  # False for NaN


def draws_needed(
    ratio: LogRatio, margin: float, level: ArrayLike, *, predicted_sd: ArrayLike = np.nan
) -> Float64[np.ndarray, " test"]:
    r"""Estimate how many draws would decide the verdict if the true ratio were the estimated one.

    This is the smaller of two numbers, for agreement and for disagreement, each for a power of 95 %
    per side (90 % in total if the ratio is 1):

    .. math:: N_{agree} = (z_{.95} + z_{.95})^2 \sigma^2 / (\delta - |\theta|)^2, \quad
              N_{differ} = (z_{1 - \alpha/2} + z_{.95})^2 \sigma^2 / \theta^2

    with theta the estimate, delta = log margin and sigma the standard deviation of one draw. At
    theta = 0, the first number is that of derivations.md, section 5.4. A t-test needs z^2 / 2 more
    draws than a normal test (Guenther 1981). More draws cannot reduce the theory's sampling error.

    Parameters
    ----------
    ratio
        The estimates.
    margin
        As in `is_equivalent`.
    level
        Significance level of a single test, after the correction for multiple tests.
    predicted_sd
        Predicted standard deviation of one draw. Sigma is the larger of it and `ratio.draw_sd`.

    Returns
    -------
    numpy.ndarray
        Number of draws, above the current number; infinite if the theory's sampling error is too
        large, NaN if sigma is unknown.
    """
    sigma = np.fmax(ratio.draw_sd, np.asarray(predicted_sd, float))
    from_one = np.abs(ratio.value)
    from_margin = np.maximum(np.log(margin) - from_one, 0)
    one_sided = stats.norm.ppf(AGREEMENT)
    two_sided = stats.norm.isf(np.asarray(level, float) / 2)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        agree = _draws_to_resolve(from_margin, sigma, one_sided, ratio.theory_se)
        differ = _draws_to_resolve(from_one, sigma, two_sided, ratio.theory_se)
    needed = np.ceil(np.fmin(agree, differ))
    return np.where(np.isnan(sigma), np.nan, np.maximum(needed, ratio.draws + 1))


def _draws_to_resolve(
    distance: np.ndarray, sigma: np.ndarray, z: np.ndarray, theory_se: np.ndarray
) -> np.ndarray:
    draws_var = (distance / (z + stats.norm.ppf(POWER))) ** 2 - theory_se**2
    return np.where(draws_var > 0, sigma**2 / draws_var + z**2 / 2, np.inf)
