"""Is the measured spread of log-moments the predicted one?"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from scipy import stats


def p_other_spread(
    sample_sd: Float64[np.ndarray, " test"],
    draws: Float64[np.ndarray, " test"],
    predicted_sd: Float64[np.ndarray, " test"],
) -> Float64[np.ndarray, " test"]:
    """Two-sided p-value of "the draws scatter as predicted": chi-squared with draws - 1.

    Where it rejects, the theory of the variance fails even if the mean passes (THEORY.md, section
    5.4). It takes log-moments for normal; heavier tails than that make it reject too often, unlike
    a test of means, so it is told beside a verdict rather than made part of it.

    Parameters
    ----------
    sample_sd
        Standard deviation of the draws' log-moments.
    draws
        How many.
    predicted_sd
        NaN, or 0, where the theory predicts none: so is the p-value.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.where(
            predicted_sd > 0, (draws - 1) * (sample_sd / predicted_sd) ** 2, np.nan
        )
    lower = stats.chi2.cdf(statistic, draws - 1)
    upper = stats.chi2.sf(statistic, draws - 1)
    return np.asarray(np.minimum(2 * np.minimum(lower, upper), 1.0))
