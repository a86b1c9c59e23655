"""Verdict for every layer on whether the mean over draws agrees with the prediction.

The distribution of one draw's moment m is that of `fanin.statistics.draw_distribution`, and `value`
is E[m]. With e = log E[m] - E[log m] (`log_mean_excess`; log_sd^2 / 2 for a log-normal m),
log(m / value) + e has mean 0, and its t-test over draws keeps the significance level. A t-test of
m, or of log(m / value) alone, does not keep that level (docs/appendix/derivations.md, section 5.4).

If a moment is exactly 0 in some draws, the estimate of E[m] is exp(mean of log m + e)
over the other draws, times their fraction, whose binomial error is included.

The verdicts, in the order in which they are decided:

`agrees`
    The ratio lies within the margin (two one-sided tests). With many draws it may still differ
    significantly from 1, by less than the margin; `p_holm` has the p-value.
`disagrees`
    The ratio differs significantly from 1, after Holm's correction over all tests, and is not shown
    to lie within the margin. The same verdict is given if both are true of the step instead (the
    ratio of this layer's moment to that of the layer before).
`undecided`
    Neither. `draws_needed` estimates how many draws would decide.
`not_tested`
    There was nothing to test; the column `kind` gives the reason.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float64
from numpy.typing import ArrayLike
from scipy import stats

from fanin.statistics.draw_distribution import (
    LEVELS,
    log_mean_excess,
    log_quantile,
    predicted_mean_log,
)
from fanin.statistics.holm import holm
from fanin.statistics.log_gamma import excess_kurtosis
from fanin.statistics.log_ratio import LogRatio, draws_needed, is_equivalent, ratio_p_value

AGREES, DISAGREES, UNDECIDED, NOT_TESTED = "agrees", "disagrees", "undecided", "not_tested"
# Relative standard deviation, from float32 rounding, of a moment that is equal in all draws.
ROUNDING = 1e-5
# Square of float32's rounding error at 1, 2^-24. If a predicted mean square is below it, the
# derivative of a saturated activation may be exactly 0 in float32.
UNDERFLOW = 2.0**-48
PREDICTED_DRAWS = 64  # smallest number of networks that theory `finite_width` draws


def verdicts(
    rows: pd.DataFrame, steps: LogRatio, *, margin: float = 1.1, level: float = 0.05
) -> pd.DataFrame:
    """Return the verdict and the test results for every layer of a sweep.

    Parameters
    ----------
    rows
        One row per layer, with a summary of its draws (columns of
        `fanin.statistics.draws.summarize_draws`) and the prediction: `value`, `log_sd` (NaN if the
        theory predicts no spread), `log_skew`, `sampling_se`, `zero_probability`, the probability
        that a draw is exactly 0, and `linear_unit`, the unit of differences for quantities that can
        be negative (NaN for others).
    steps
        Estimates of log(measured / predicted) for the step of each layer, the ratio of its moment
        to that of the layer before; NaN where unknown.
    margin
        Ratios between 1/margin and margin count as agreement.
    level
        Probability of one or more false positives over all rows and steps.

    Returns
    -------
    pandas.DataFrame
        With the index of `rows`: `kind` (`tested`; `constant`, all draws are equal; `zero`;
        `overflowed`; `unpredicted`), `test` (see Notes), `log_ratio` of measured to predicted and
        `log_ratio_se`, `p` and `p_holm`, `verdict`, `draws_needed`, the `step` with `step_se`,
        `step_p`, `step_p_holm` and `step_verdict`, and the spread: `sd_ratio` (measured to
        predicted standard deviation of the log-moment; NaN if 0 has a probability above 2.5 %),
        `spread_p` and `spread_p_holm` (corrected separately).

    Notes
    -----
    `test` is the kind of test. `log` uses the distribution of one draw's log-moment.
    `mean` is for theories that predict no spread: it tests the arithmetic mean with the draws'
    standard deviation (on the logarithm, by the delta method); with few draws and heavy tails it
    rejects up to twice as often as its level. `linear` is for quantities that can be negative and
    tests the difference in units of `linear_unit`, not the ratio.

    Layers without spread are compared, not tested. A constant outside the margin disagrees. So does
    a layer that is zero in all draws but not in the prediction, or the reverse, if the probability
    of this is below the corrected level. Otherwise the verdict is `not_tested`. It is also
    `not_tested` if some draws are zero and may have underflowed in float32.
    """
    test = _tests(rows)
    kind = _kinds(rows, test)
    ratio = _ratios(rows, test)
    tested = kind == "tested"
    p = np.where(tested, ratio_p_value(ratio), np.nan)
    step_p = ratio_p_value(steps)
    corrected = holm(np.concatenate([p, step_p]))
    p_holm, step_p_holm = np.split(corrected, 2)
    step_verdict = _decided(steps, step_p_holm, margin, level)
    verdict = _decided(ratio, p_holm, margin, level)
    verdict[step_verdict == DISAGREES] = DISAGREES
    family = max(int(np.isfinite(corrected).sum()), 1)
    zero_level = level / (family + int((kind == "zero").sum()))
    exactly_off = _exactly_off(rows, kind, ratio, margin, zero_level)
    verdict[~tested] = np.where(exactly_off, DISAGREES, NOT_TESTED)[~tested]
    predicted_sd = np.where(test == "log", rows["log_sd"], np.nan)
    needed = draws_needed(ratio, margin, level / family, predicted_sd=predicted_sd)
    # With zeros, `log_sd` is chosen to give the mean and the mean logarithm, not the spread.
    predicted_sd = np.where(_zero_share(rows) > LEVELS[0], np.nan, predicted_sd)
    measured_sd = rows["sd_log"].to_numpy(float)
    kurtosis = excess_kurtosis(_log_skew(rows))
    spread_p = spread_p_value(measured_sd, ratio.draws, predicted_sd, kurtosis)
    spread_p = np.where(tested, spread_p, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        needed = np.ceil(needed * rows["draws"].to_numpy(float) / ratio.draws)
        sd_ratio = np.where(tested & (predicted_sd > 0), measured_sd / predicted_sd, np.nan)
    columns = {
        "kind": kind,
        "test": np.where(tested, test, ""),
        "log_ratio": ratio.value,
        "log_ratio_se": ratio.se,
        "p": p,
        "p_holm": p_holm,
        "verdict": verdict,
        "draws_needed": np.where(verdict == UNDECIDED, needed, np.nan),
        "step": steps.value,
        "step_se": steps.se,
        "step_p": step_p,
        "step_p_holm": step_p_holm,
        "step_verdict": np.where(np.isnan(steps.value), "", step_verdict),
        "sd_ratio": sd_ratio,
        "spread_p": spread_p,
        "spread_p_holm": holm(spread_p),
    }
    return pd.DataFrame(columns, index=rows.index)


def _tests(rows: pd.DataFrame) -> np.ndarray:
    has_spread = np.where(rows["log_sd"].notna(), "log", "mean")
    return np.where(rows["linear_unit"].notna(), "linear", has_spread)


def _kinds(rows: pd.DataFrame, test: np.ndarray) -> np.ndarray:
    value = rows["value"].to_numpy(float)
    all_zero = (rows["zeros"] == rows["draws"]).to_numpy()
    some_zero = (test == "log") & (rows["zeros"] > 0).to_numpy()
    with np.errstate(under="ignore", over="ignore"):
        lowest = np.exp(_log_quantile(rows, LEVELS[0]))
    zero = all_zero | (value == 0) | (some_zero & (lowest <= UNDERFLOW))
    with np.errstate(invalid="ignore"):
        constant = rows["sd"] <= ROUNDING * rows["mean"].abs()
        constant &= ~((test == "log") & (rows["log_sd"] > ROUNDING))
    kind = np.select(
        [
            np.isnan(value),
            (rows["overflowed"] > 0) | np.isinf(value),
            np.where(test == "linear", all_zero & (value == 0), zero),
            constant,
        ],
        ["unpredicted", "overflowed", "zero", "constant"],
        "tested",
    )
    return np.asarray(kind, dtype=object)


def _log_quantile(rows: pd.DataFrame, level: float) -> np.ndarray:
    """Return the predicted log-quantile of the draws that are not 0."""
    log_sd, log_skew = np.nan_to_num(rows["log_sd"].to_numpy(float)), _log_skew(rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_value = np.log(rows["value"].to_numpy(float))
    mean_log = predicted_mean_log(log_value, log_sd, _zero_share(rows), log_skew)
    return log_quantile(level, mean_log, log_sd, log_skew)


def _log_skew(rows: pd.DataFrame) -> np.ndarray:
    """Return the predicted skewness of the log-moment; 0 if the theory predicts none."""
    return np.asarray(np.nan_to_num(rows["log_skew"].to_numpy(float)))


def _zero_share(rows: pd.DataFrame) -> np.ndarray:
    """Return the predicted probability of 0; 0 for a theory that predicts no distribution."""
    return np.asarray(np.nan_to_num(rows["zero_probability"].to_numpy(float)))


def _ratios(rows: pd.DataFrame, test: np.ndarray) -> LogRatio:
    value, log_sd = rows["value"].to_numpy(float), rows["log_sd"].to_numpy(float)
    mean, sd, scale = (rows[name].to_numpy(float) for name in ("mean", "sd", "scale"))
    unit = rows["linear_unit"].to_numpy(float)
    draws, zeros = rows["draws"].to_numpy(float), rows["zeros"].to_numpy(float)
    not_zero = np.where(test == "log", np.maximum(draws - zeros, 1), draws)
    with np.errstate(all="ignore"):
        predicted = np.log(value)
        by_log = rows["mean_log"].to_numpy(float) - predicted
        by_log += log_mean_excess(log_sd, _log_skew(rows))
        by_log += np.log(not_zero / draws)
        # The variance of log(not_zero / draws) is p / (1 - p) / draws.
        p = np.maximum(zeros / draws, _zero_share(rows))
        log_draw_sd = np.sqrt(rows["sd_log"] ** 2 + p / (1 - p) * not_zero / draws)
        by_mean = np.log(mean) + np.log(scale) - predicted
        linear = (mean * scale - value) / unit
        of = [test == "log", test == "linear"]
        draw_sd = np.select(of, [log_draw_sd, sd * scale / unit], sd / mean)
        theory_se = rows["sampling_se"].to_numpy(float) / np.where(test == "linear", unit, value)
    return LogRatio(
        value=np.select(of, [by_log, linear], by_mean),
        draw_sd=draw_sd,
        draws=not_zero,
        theory_se=theory_se,
    )


def _decided(ratio: LogRatio, p_holm: np.ndarray, margin: float, level: float) -> np.ndarray:
    verdict = np.where(p_holm <= level, DISAGREES, UNDECIDED)
    return np.asarray(np.where(is_equivalent(ratio, margin), AGREES, verdict), dtype=object)


def _exactly_off(
    rows: pd.DataFrame, kind: np.ndarray, ratio: LogRatio, margin: float, zero_level: float
) -> np.ndarray:
    value, draws = rows["value"].to_numpy(float), rows["draws"].to_numpy(float)
    zeros = rows["zeros"].to_numpy(float)
    measured = rows["mean"].abs().to_numpy(float) * rows["scale"].to_numpy(float)
    # If a distribution is wide, very rare draws dominate its mean, so compare its median with
    # UNDERFLOW.
    with np.errstate(invalid="ignore", under="ignore"):
        median = np.exp(_log_quantile(rows, 0.5))
    # The probability that all measured draws, or all draws of the theory, are zero.
    only_measured = (zeros == draws) & (median > UNDERFLOW)
    only_measured &= _zero_share(rows) ** draws <= zero_level
    only_predicted = (value == 0) & (measured > UNDERFLOW)
    only_predicted &= (zeros / draws) ** PREDICTED_DRAWS <= zero_level
    constant_off = (kind == "constant") & (np.abs(ratio.value) > np.log(margin))
    return np.asarray(constant_off | ((kind == "zero") & (only_measured | only_predicted)))


def spread_p_value(
    measured_sd: Float64[np.ndarray, " test"],
    draws: Float64[np.ndarray, " test"],
    predicted_sd: Float64[np.ndarray, " test"],
    kurtosis: ArrayLike = 0.0,
) -> Float64[np.ndarray, " test"]:
    """Return the two-sided p-value of "the draws have the predicted spread".

    For normal log-moments the statistic has a chi-squared distribution with draws - 1 degrees of
    freedom; for others, the number of degrees is chosen to give the variance of a sample variance,
    (2 / (draws - 1) + kurtosis / draws) sd^4 (Box 1953, Non-normality and tests on variances). If
    the test rejects, the predicted variance is wrong, even if the predicted mean agrees
    (derivations.md, section 5.4). It rejects too often if tails are heavier than predicted, so it
    is not a part of the verdict.

    Parameters
    ----------
    measured_sd
        Standard deviation of the draws' log-moments.
    draws
        Number of draws.
    predicted_sd
        Predicted standard deviation. The p-value is NaN where this is NaN or 0.
    kurtosis
        Predicted excess kurtosis of the log-moments.

    Returns
    -------
    numpy.ndarray
        The p-values.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        degrees = (draws - 1) / (1 + kurtosis * (draws - 1) / (2 * draws))
        statistic = np.where(predicted_sd > 0, degrees * (measured_sd / predicted_sd) ** 2, np.nan)
    lower = stats.chi2.cdf(statistic, degrees)
    upper = stats.chi2.sf(statistic, degrees)
    return np.asarray(np.minimum(2 * np.minimum(lower, upper), 1.0))
