"""Fit of the distribution of one draw's moment to simulated draws.

The distribution is that of `fanin.statistics.draw_distribution`: exactly 0 with some probability,
otherwise log-normal, or log-gamma if the skewness of the logarithms is significant. It is
significant in networks whose weights have a non-zero mean, where all units of a layer share a
random term and its square is nearly chi-squared (docs/appendix/derivations.md, section 5.6).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from fanin.statistics.draw_distribution import LEVELS, Z, log_interval, log_mean_excess
from fanin.statistics.log_gamma import MAX_SKEW
from fanin.theory.prediction import DrawDistribution

# If at most this fraction of draws is 0, or overflows (the part of a 95 % interval's complement on
# one side), the distribution is fitted to the others as if there were none.
MAX_LOST = LEVELS[0]
MIN_POSITIVE = 16  # draws that are not 0, of a distribution with zeros
# Largest fraction of draws above the 97.5 % quantile that is fitted to them. Slopes that underflow
# are not log-normal: they spread over hundreds of powers of ten.
MAX_ABOVE = 0.05
MIN_LOG_SD = 1e-6  # a smaller spread is float32 rounding, as of a cotangent of fixed length
STEP = 1e-4  # of numerical derivatives with respect to a standard deviation or skewness

Moments = Float64[np.ndarray, "draw *row layer"]
Statistic = Float64[np.ndarray, "*row layer"]


def fit_distribution(rows: Moments) -> DrawDistribution:
    """Fit the probability of 0, and a log-gamma distribution to the other draws of a moment.

    The distribution has the mean, the standard deviation and the skewness of the logarithms of the
    draws. The skewness is 0 (a log-normal distribution) unless it is significant
    (`significant_skew`).

    If more than one in forty draws is 0, the value is the plain mean, and a log-normal
    distribution has the mean and the mean logarithm of the draws that are not 0. Its `log_sd` is
    then less than the standard deviation of their logarithms, because some of these draws are
    nearly 0. If these draws are too few (`MIN_POSITIVE`) or not log-normal (`MAX_ABOVE`), or if
    more than one in forty draws overflows, the spread is NaN. If all draws are 0, the value and the
    spread are 0. If some draws overflow, the value is inf.

    Examples
    --------
    >>> draws = np.exp(np.array([-1.0, 0.0, 1.0]))[:, None, None]
    >>> fit = fit_distribution(draws)
    >>> fit.log_sd.item(), float(np.log(fit.value.item()))
    (1.0, 0.5)
    >>> with_zeros = fit_distribution(np.concatenate([*[draws] * 10, *[0 * draws] * 10]))
    >>> with_zeros.zero_probability.item(), float(with_zeros.value.item() / fit.value.item()) < 0.5
    (0.5, True)
    """
    n = len(rows)
    is_zero, overflowed = rows == 0, ~np.isfinite(rows)
    usable = ~(is_zero | overflowed)
    log = np.where(usable, np.log(np.where(usable, rows, 1.0)), np.nan)
    n_usable = usable.sum(0)
    centre = np.nansum(log, 0) / np.maximum(n_usable, 1)
    log_sd = np.sqrt(np.nansum(np.square(log - centre), 0) / np.maximum(n_usable - 1, 1))
    log_sd = np.where(log_sd < MIN_LOG_SD, 0.0, log_sd)
    p = is_zero.mean(0)
    has_zeros, is_fitted = p > MAX_LOST, overflowed.mean(0) <= MAX_LOST
    z = (log - centre) / np.where(log_sd > 0, log_sd, np.inf)
    log_skew = np.where(has_zeros | ~is_fitted, 0.0, significant_skew(z, log_sd))
    value = np.exp(centre + log_mean_excess(log_sd, log_skew)) * (1 - p)
    se, plain, plain_se = (
        value * _log_value_se(z, log_sd, log_skew),
        rows.mean(0),
        rows.std(0, ddof=1) / n**0.5,
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        matched = np.sqrt(np.maximum(2 * (np.log(plain / (1 - p)) - centre), 0.0))
        log_sd = np.where(has_zeros & (log_sd > 0), matched, log_sd)
        is_above = np.log(rows) > log_interval(centre, log_sd, p)[1] + MIN_LOG_SD
    is_fitted &= ~has_zeros | ((n_usable >= MIN_POSITIVE) & (is_above.mean(0) <= MAX_ABOVE))
    use_plain = has_zeros | ~is_fitted
    any_overflowed = overflowed.any(0)
    return DrawDistribution(
        value=np.where(any_overflowed, np.inf, np.where(use_plain, plain, value)),
        log_sd=np.where(is_zero.all(0), 0.0, np.where(is_fitted, log_sd, np.nan)),
        sampling_se=np.where(any_overflowed, np.inf, np.where(use_plain, plain_se, se)),
        zero_probability=p,
        log_skew=log_skew,
    )


def significant_skew(z: Moments, log_sd: Statistic) -> Statistic:
    """Return the skewness of log-moments, or 0 if a log-normal distribution can have caused it.

    It is 0 in three cases. (1) The skewness lies in the 95 % interval of n normal values, whose
    variance is 6 (n - 2) / ((n + 1) (n + 3)), about 6 / n (Fisher 1930). (2) The log-gamma
    distribution with this skewness has no finite variance of the moment itself, so that a mean over
    draws has no standard error. This happens only for positive skewness. (3) All draws are equal.

    Parameters
    ----------
    z
        Standardized logarithms of the draws; NaN for draws that are 0 or overflow.
    log_sd
        Their standard deviation before they were standardized.
    """
    n = np.isfinite(z).sum(0)
    sd = np.sqrt(_mean(z**2))
    skew = _mean(z**3) / np.where(sd > 0, sd, np.inf) ** 3
    skew = np.clip(skew, -MAX_SKEW, MAX_SKEW)
    normal_se = np.sqrt(6.0 * np.maximum(n - 2, 0) / ((n + 1.0) * (n + 3.0)))
    is_significant = np.abs(skew) > Z * normal_se
    has_variance = np.isfinite(log_mean_excess(2 * log_sd, skew))
    return np.where(is_significant & has_variance, skew, 0.0)


def _log_value_se(z: Moments, log_sd: Statistic, log_skew: Statistic) -> Statistic:
    """Return the standard error of the logarithm of the fitted mean (delta method).

    It is sqrt((log_sd^2 + log_sd^4 / 2) / n) for a log-normal distribution. For another one, it is
    that of the mean over draws of log_sd z + a (z^2 - 1) log_sd / 2 + b (z^3 - 3 z - skew
    - 3 skew (z^2 - 1) / 2), the linear influence of one draw on the mean, the standard deviation
    and the skewness. a and b are the derivatives of `log_mean_excess` with respect to the last two.
    """
    n = np.maximum(np.isfinite(z).sum(0), 1)
    normal = np.sqrt(log_sd**2 / n + log_sd**4 / (2 * np.maximum(n - 1, 1)))
    by_sd, by_skew = (
        (log_mean_excess(log_sd + ds, log_skew + db) - log_mean_excess(log_sd - ds, log_skew - db))
        / (2 * STEP)
        for ds, db in ((STEP, 0.0), (0.0, STEP))
    )
    influence = log_sd * z + by_sd * log_sd * (z**2 - 1) / 2
    influence += by_skew * (z**3 - 3 * z - log_skew - 1.5 * log_skew * (z**2 - 1))
    return np.where(log_skew == 0, normal, np.sqrt(_mean(influence**2) / n))


def _mean(values: Moments) -> Statistic:
    """Return the mean over draws without NaN; 0 if there are none."""
    n = np.isfinite(values).sum(0)
    return np.asarray(np.nansum(values, 0) / np.maximum(n, 1))
