"""Fit of the distribution of one draw's moment to simulated draws.

The distribution is that of `fanin.statistics.draw_distribution`: exactly 0 with some probability,
otherwise log-normal, or log-gamma if the skewness of the logarithms is significant. It is
significant in networks whose weights have a non-zero mean, where all units of a layer share a
random term and its square is nearly chi-squared (docs/appendix/derivations.md, section 5.6).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float64
from scipy.special import logsumexp

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
SMALL_LOG_SD = 0.01  # the fourth cumulant then changes a matched skewness by kurtosis / 400
BISECTIONS = 40  # of the skewness; its error is 4e-12

Moments = Float64[np.ndarray, "draw *row layer"]
Statistic = Float64[np.ndarray, "*row layer"]
Mask = Bool[np.ndarray, "*row layer"]


def fit_distribution(rows: Moments) -> DrawDistribution:
    """Fit the probability of 0, and a log-gamma distribution to the other draws of a moment.

    The distribution has the mean and the standard deviation of the logarithms of the draws. It is
    log-normal unless these are significantly skewed (`is_skewed`). Otherwise its skewness is chosen
    to give the mean of the draws, so that no error of the shape enters `value`.

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
    skewed = ~has_zeros & is_fitted & is_skewed(log)
    excess, excess_se = _mean_excess(log - centre)
    log_skew = np.where(skewed, _matching_skew(excess, log - centre), 0.0)
    value = np.exp(centre + np.where(skewed, excess, log_sd**2 / 2)) * (1 - p)
    normal_se = np.sqrt(log_sd**2 / n + log_sd**4 / (2 * (n - 1)))
    se = value * np.where(skewed, excess_se, normal_se)
    plain, plain_se = rows.mean(0), rows.std(0, ddof=1) / n**0.5
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


def is_skewed(log: Moments) -> Mask:
    """Return True if the logarithms of the draws are significantly skewed.

    This is so if their skewness is outside the 95 % interval of n normal values, whose variance is
    6 (n - 2) / ((n + 1) (n + 3)), about 6 / n (Fisher 1930, The moments of the distribution for
    normal samples of measures of departure from normality).

    Parameters
    ----------
    log
        Logarithms of the draws; NaN for draws that are 0 or overflow.
    """
    n = np.isfinite(log).sum(0)
    deviation = log - _mean(log)
    normal_se = np.sqrt(6.0 * np.maximum(n - 2, 0) / ((n + 1.0) * (n + 3.0)))
    return np.asarray(np.abs(_skewness(deviation)) > Z * normal_se)


def _skewness(deviation: Moments) -> Statistic:
    """Return the skewness of deviations from their mean; 0 if they are all 0 up to rounding."""
    sd = np.sqrt(_mean(deviation**2))
    return _mean(deviation**3) / np.where(sd >= MIN_LOG_SD, sd, np.inf) ** 3


def _mean_excess(deviation: Moments) -> tuple[Statistic, Statistic]:
    """Return log E[m] - E[log m], estimated by the mean of m over draws, and its standard error."""
    n = np.maximum(np.isfinite(deviation).sum(0), 1)
    exponent = np.where(np.isfinite(deviation), deviation, -np.inf)
    log_m1, log_m2 = (logsumexp(k * exponent, axis=0) - np.log(n) for k in (1, 2))
    with np.errstate(invalid="ignore", over="ignore"):
        return log_m1, np.sqrt(np.expm1(log_m2 - 2 * log_m1) / np.maximum(n - 1, 1))


def _matching_skew(excess: Statistic, deviation: Moments) -> Statistic:
    """Return the skewness of the log-gamma distribution that has this `log_mean_excess`.

    The excess grows with the skewness. It depends on it by the third cumulant, log_sd^3 / 6 times
    the skewness, and below `SMALL_LOG_SD` higher cumulants do not matter.
    """
    sd = np.sqrt(_mean(deviation**2))
    low, high = np.full(sd.shape, -MAX_SKEW), np.full(sd.shape, MAX_SKEW)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        is_low = log_mean_excess(sd, middle) < excess
        low, high = np.where(is_low, middle, low), np.where(is_low, high, middle)
    sample = np.clip(_skewness(deviation), -MAX_SKEW, MAX_SKEW)
    return np.where(sd < SMALL_LOG_SD, sample, (low + high) / 2)


def _mean(values: Moments) -> Statistic:
    """Return the mean over draws without NaN; 0 if there are none."""
    n = np.isfinite(values).sum(0)
    return np.asarray(np.nansum(values, 0) / np.maximum(n, 1))
