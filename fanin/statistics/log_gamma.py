r"""Log-gamma distribution: the logarithm of a moment that may be close to chi-squared.

Z has mean 0, variance 1 and the skewness b. For b < 0 it is the standardized logarithm of a gamma
variable with shape k, for b > 0 minus that, and for b = 0 normal:

.. math:: Z = -\mathrm{sign}(b) \frac{\log G_k - \psi(k)}{\sqrt{\psi'(k)}}, \quad
          |b| = -\frac{\psi''(k)}{\psi'(k)^{3/2}}

(Prentice 1974, "A log gamma model and its maximum likelihood estimation", Biometrika 61). So
exp(m + s Z) is log-normal for b = 0, and can be gamma or chi-squared with any number of degrees of
freedom; one degree has k = 1/2 and b = -1.54.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

NORMAL_SKEW = 1e-3  # below this, Z is normal: distribution functions differ by less than 1e-4
SHAPES = 0.01, 1e7  # range of k in the table
MAX_SKEW = 1.99  # the skewness of k -> 0 is 2
TABLE_SIZE = 2**14  # relative error of an interpolated k: 2e-7


def from_normal(z: ArrayLike, skew: ArrayLike) -> np.ndarray:
    """Map standard normal values to the values of Z with the same quantiles.

    Examples
    --------
    >>> from scipy import stats
    >>> z = from_normal(stats.norm.ppf(0.975), -1.5351416)
    >>> log_chi2 = np.log(2) + special.psi(0.5) + special.polygamma(1, 0.5) ** 0.5 * z
    >>> round(float(np.exp(log_chi2)), 3), round(float(stats.chi2.ppf(0.975, 1)), 3)
    (5.024, 5.024)
    """
    z, skew = np.broadcast_arrays(np.asarray(z, float), np.asarray(skew, float))
    k, centre, scale = _gamma_of(skew)
    gamma_z = np.where(skew < 0, z, -z)
    with np.errstate(divide="ignore", invalid="ignore"):
        gamma = np.where(
            gamma_z < 0,
            special.gammaincinv(k, special.ndtr(gamma_z)),
            special.gammainccinv(k, special.ndtr(-gamma_z)),
        )
        standardized = (np.log(gamma) - centre) / scale
    return np.where(_is_normal(skew), z, np.where(skew < 0, standardized, -standardized))


def cdf(z: ArrayLike, skew: ArrayLike) -> np.ndarray:
    """Return the distribution function of Z.

    Examples
    --------
    >>> cdf([0.0, 0.0, 0.0], [-1.0, 0.0, 1.0]).round(3).tolist()
    [0.438, 0.5, 0.562]
    """
    z, skew = np.broadcast_arrays(np.asarray(z, float), np.asarray(skew, float))
    k, centre, scale = _gamma_of(skew)
    with np.errstate(over="ignore"):
        gamma = np.exp(centre + scale * np.where(skew < 0, z, -z))
    by_gamma = np.where(skew < 0, special.gammainc(k, gamma), special.gammaincc(k, gamma))
    return np.where(_is_normal(skew), special.ndtr(z), by_gamma)


def cumulant_function(power: ArrayLike, skew: ArrayLike = 0.0) -> np.ndarray:
    """Return log E[exp(power Z)]; inf if that expectation is infinite.

    Examples
    --------
    >>> float(cumulant_function(0.5)), float(cumulant_function(2.0, 1.5))
    (0.125, inf)
    """
    power, skew = np.broadcast_arrays(np.asarray(power, float), np.asarray(skew, float))
    k, centre, scale = _gamma_of(skew)
    exponent = np.where(skew < 0, power, -power) / scale
    exists = k + exponent > 0
    raised = np.where(exists, k + exponent, 1.0)
    by_gamma = special.gammaln(raised) - special.gammaln(k) - exponent * centre
    return np.where(_is_normal(skew), power**2 / 2, np.where(exists, by_gamma, np.inf))


def excess_kurtosis(skew: ArrayLike) -> np.ndarray:
    """Return the excess kurtosis of Z.

    Examples
    --------
    >>> excess_kurtosis([0.0, -1.5351416]).round(3).tolist()  # normal, and log of chi-squared(1)
    [0.0, 4.0]
    """
    skew = np.asarray(skew, float)
    k, _, scale = _gamma_of(skew)
    return np.where(_is_normal(skew), 0.0, special.polygamma(3, k) / scale**4)


def _is_normal(skew: np.ndarray) -> np.ndarray:
    return np.abs(skew) < NORMAL_SKEW


def _gamma_of(skew: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the shape, and the mean and standard deviation of the log of that gamma variable."""
    log_skew = np.log(np.clip(np.abs(skew), NORMAL_SKEW, MAX_SKEW))
    k = np.exp(np.interp(log_skew, *_shape_table()))
    return k, special.psi(k), np.sqrt(special.polygamma(1, k))


@cache
def _shape_table() -> tuple[np.ndarray, np.ndarray]:
    """Return increasing logarithms of the skewness, and the logarithms of k."""
    log_k = np.linspace(np.log(SHAPES[1]), np.log(SHAPES[0]), TABLE_SIZE)
    k = np.exp(log_k)
    log_skew = np.log(-special.polygamma(2, k)) - 1.5 * np.log(special.polygamma(1, k))
    return log_skew, log_k
