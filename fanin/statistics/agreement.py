"""A verdict for every layer: does the draws' mean agree with the predicted law?

The law of one draw's moment m is log m ~ N(log(value) - log_sd^2 / 2, log_sd^2), so that `value` is
E[m]. Hence log(m / value) + log_sd^2 / 2 has mean 0, and a t-test over draws keeps its level where
one on m itself, or on log m without the second term, does not (docs/derivations.md, section 5.4).

Verdicts, in this order:

`agrees`
    The ratio lies within the margin (two one-sided tests). It may still differ from 1 beyond doubt,
    by less than the margin: with many draws every approximation does. `p_holm` tells.
`disagrees`
    The ratio differs from 1, after Holm's correction over everything tested together, and is not
    shown to lie within the margin. Or what the layer adds to the one before it does (the step).
`undecided`
    Neither; `needed` says about how many draws would tell.
`not_tested`
    Nothing was tested: see `kind`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float64
from scipy import stats

from fanin.statistics.holm import holm
from fanin.statistics.log_ratio import LogRatio, draws_needed, is_equivalent, ratio_p_value

AGREES, DISAGREES, UNDECIDED, NOT_TESTED = "agrees", "disagrees", "undecided", "not_tested"
# Relative scatter that float32 makes of a moment that is the same in every draw.
ROUNDING = 1e-5
# The square of what float32 rounds off a 1: saturated derivatives are 0 in it and not in theory.
UNDERFLOW = 2.0**-48


def verdicts(
    rows: pd.DataFrame, steps: LogRatio, *, margin: float = 1.1, level: float = 0.05
) -> pd.DataFrame:
    """Judge every layer of a sweep.

    Parameters
    ----------
    rows
        A row per layer: its draws (as `fanin.statistics.draws.summarize_draws` has them) and their
        predicted law: `value`, `log_sd` (NaN: the theory predicts no spread), `sampling_se`, and
        `linear_unit`, NaN but for quantities of either sign.
    steps
        What each layer adds to the one before it, measured against predicted; NaN where unknown.
    margin
        Ratios between 1/margin and margin count as agreement.
    level
        Chance of any false alarm over all rows and steps.

    Returns
    -------
    pandas.DataFrame
        With the rows' index: `kind` (`tested`; `constant`: no draw differs from another; `zero`;
        `overflowed`; `unpredicted`), `test` (below), `log_ratio` of measured to predicted and
        `log_ratio_se`, `p` and `p_holm`, `verdict`, `needed` draws, the `step` with `step_se`,
        `step_p`, `step_p_holm` and `step_verdict`, and the spread: `sd_ratio` (measured to
        predicted sd of the log-moment), `spread_p` and `spread_p_holm` (a family of its own).

    Notes
    -----
    `test` says where the spread came from. `log`: the law above. `mean`: the theory predicts no
    spread, so the arithmetic mean is tested with the draws' own (on the logarithm, by the delta
    method); with few draws and heavy tails it rejects up to twice as often as it should. `linear`:
    a quantity of either sign, whose difference is told in `linear_unit`s and not as a ratio.

    What has no scatter is compared and not tested: a constant outside the margin, or a layer that
    is zero where theory says it is not, disagrees; inside, it is not tested.
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
    verdict[~tested] = np.where(_exactly_off(rows, kind, ratio, margin), DISAGREES, NOT_TESTED)[
        ~tested
    ]
    family = max(int(np.isfinite(corrected).sum()), 1)
    predicted_sd = np.where(test == "log", rows["log_sd"], np.nan)
    needed = draws_needed(ratio, margin, level / family, spread=predicted_sd)
    spread_p = np.where(tested, spread_p_value(*_spread(rows), predicted_sd), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        sd_ratio = np.where(tested & (predicted_sd > 0), rows["sd_log"] / predicted_sd, np.nan)
    columns = {
        "kind": kind,
        "test": np.where(tested, test, ""),
        "log_ratio": ratio.value,
        "log_ratio_se": ratio.se,
        "p": p,
        "p_holm": p_holm,
        "verdict": verdict,
        "needed": np.where(verdict == UNDECIDED, needed, np.nan),
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
    lognormal = np.where(rows["log_sd"].notna(), "log", "mean")
    return np.where(rows["linear_unit"].notna(), "linear", lognormal)


def _kinds(rows: pd.DataFrame, test: np.ndarray) -> np.ndarray:
    value = rows["value"].to_numpy(float)
    all_zero = (rows["zeros"] == rows["draws"]).to_numpy()
    # The logarithm of some zero is none; the arithmetic mean of some is one.
    none = np.where(test == "log", rows["zeros"] > 0, all_zero) | (value == 0)
    with np.errstate(invalid="ignore"):
        still = rows["sd"] <= ROUNDING * rows["mean"].abs()
        still &= ~((test == "log") & (rows["log_sd"] > ROUNDING))
    kind = np.select(
        [
            np.isnan(value),
            (rows["overflowed"] > 0) | np.isinf(value),
            np.where(test == "linear", all_zero & (value == 0), none),
            still,
        ],
        ["unpredicted", "overflowed", "zero", "constant"],
        "tested",
    )
    return np.asarray(kind, dtype=object)


def _ratios(rows: pd.DataFrame, test: np.ndarray) -> LogRatio:
    value, log_sd = rows["value"].to_numpy(float), rows["log_sd"].to_numpy(float)
    mean, sd, scale = (rows[name].to_numpy(float) for name in ("mean", "sd", "scale"))
    unit = rows["linear_unit"].to_numpy(float)
    with np.errstate(all="ignore"):
        predicted = np.log(value)
        by_log = rows["mean_log"].to_numpy(float) - predicted + log_sd**2 / 2
        by_mean = np.log(mean) + np.log(scale) - predicted
        linear = (mean * scale - value) / unit
        of = [test == "log", test == "linear"]
        draw_sd = np.select(of, [rows["sd_log"], sd * scale / unit], sd / mean)
        theory_se = rows["sampling_se"].to_numpy(float) / np.where(test == "linear", unit, value)
    return LogRatio(
        value=np.select(of, [by_log, linear], by_mean),
        draw_sd=draw_sd,
        draws=rows["draws"].to_numpy(float),
        theory_se=theory_se,
    )


def _decided(ratio: LogRatio, p_holm: np.ndarray, margin: float, level: float) -> np.ndarray:
    verdict = np.where(p_holm <= level, DISAGREES, UNDECIDED)
    return np.asarray(np.where(is_equivalent(ratio, margin), AGREES, verdict), dtype=object)


def _exactly_off(
    rows: pd.DataFrame, kind: np.ndarray, ratio: LogRatio, margin: float
) -> np.ndarray:
    value = rows["value"].to_numpy(float)
    all_zero = (rows["zeros"] == rows["draws"]).to_numpy()
    measured = rows["mean"].abs().to_numpy(float) * rows["scale"].to_numpy(float)
    # A wide law's mean is made by draws too rare to be seen; its median says what most are.
    with np.errstate(invalid="ignore", under="ignore"):
        median = value * np.exp(-(np.nan_to_num(rows["log_sd"].to_numpy(float)) ** 2) / 2)
    # Draws of which some are zero are neither: float32 rounded some of them away.
    one_of_both = (all_zero & (median > UNDERFLOW)) | ((value == 0) & (measured > UNDERFLOW))
    constant = (kind == "constant") & (np.abs(ratio.value) > np.log(margin))
    return np.asarray(constant | ((kind == "zero") & one_of_both))


def _spread(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    return rows["sd_log"].to_numpy(float), rows["draws"].to_numpy(float)


def spread_p_value(
    sample_sd: Float64[np.ndarray, " test"],
    draws: Float64[np.ndarray, " test"],
    predicted_sd: Float64[np.ndarray, " test"],
) -> Float64[np.ndarray, " test"]:
    """Two-sided p-value of "the draws scatter as predicted": chi-squared with draws - 1.

    Where it rejects, the theory of the variance fails even if the mean passes (derivations.md,
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
