"""Tests of the verdicts of a simulated sweep."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from relu_moments import relu_log_sd, sample_relu_moments
from scipy import stats

from fanin.statistics.agreement import spread_p_value, verdicts
from fanin.statistics.draws import step_log_ratios, summarize_draws
from fanin.statistics.log_gamma import excess_kurtosis
from fanin.statistics.log_ratio import LogRatio

NO_STEPS = np.array([np.nan])


def sweep_verdicts(
    moments: np.ndarray,
    value: np.ndarray,
    log_sd: np.ndarray,
    *,
    margin: float = 1.1,
    sampling_se: float = 0.0,
    zero_probability: float = 0.0,
    log_skew: float = 0.0,
) -> pd.DataFrame:
    """Return verdicts on moments [setting, draw, layer] with one prediction for all settings."""
    settings, _, layers = moments.shape
    index = np.indices(moments.shape).reshape(3, -1)
    frame = pd.DataFrame({"setting": index[0], "draw": index[1], "layer_order": index[2] + 1})
    frame["value"] = moments.ravel()
    prediction = pd.DataFrame(
        {
            "setting": np.repeat(np.arange(settings), layers),
            "layer_order": np.tile(np.arange(layers) + 1, settings),
            "value": np.tile(value, settings),
            "log_sd": np.tile(log_sd, settings),
            "sampling_se": sampling_se,
            "zero_probability": zero_probability,
            "log_skew": log_skew,
            "linear_unit": np.nan,
        }
    )
    rows = summarize_draws(frame, ["setting", "layer_order"]).merge(
        prediction, on=["setting", "layer_order"]
    )
    table = verdicts(rows, step_log_ratios(frame, rows, ["setting"]), margin=margin)
    return pd.concat([rows, table], axis=1)


def layer_verdict(
    draws: list[float],
    value: float,
    log_sd: float,
    linear_unit: float = np.nan,
    zero_probability: float = 0.0,
    log_skew: float = 0.0,
) -> pd.Series:
    rows = summarize_draws(pd.DataFrame({"layer": 1, "value": draws}), ["layer"])
    rows = rows.assign(value=value, log_sd=log_sd, sampling_se=0.0, linear_unit=linear_unit)
    rows = rows.assign(zero_probability=zero_probability, log_skew=log_skew)
    steps = LogRatio(NO_STEPS, NO_STEPS, NO_STEPS, NO_STEPS)
    return verdicts(rows, steps).iloc[0]


def test_a_correct_theory_rarely_disagrees_in_a_sweep() -> None:
    """At most 5 % of sweeps of 8 networks, 10 layers and 9 steps have a false positive.

    With 80 sweeps the standard error is 2.4 %. The rate may be lower than 5 %, because significant
    differences within the margin agree.
    """
    rng = np.random.default_rng(0)
    n, depth = 128, 10
    sd = relu_log_sd(n, depth)
    false_positives = []
    for _ in range(80):
        table = sweep_verdicts(sample_relu_moments(n, depth, (8, 24), rng), np.ones(depth), sd)
        false_positives.append((table["verdict"] == "disagrees").any())
    assert np.mean(false_positives) < 0.05 + 3 * 0.0244


def test_steps_locate_a_wrong_layer() -> None:
    """Layer 6 of 10 has a weight variance that is 10 % too large; 64 draws, width 256.

    Only its step is wrong. The moments of the later layers are wrong too, but their spread is so
    large that 64 draws rarely detect it.
    """
    n, depth, wrong, trials = 256, 10, 5, 40
    rng = np.random.default_rng(1)
    detected = []
    for _ in range(trials):
        moments = sample_relu_moments(n, depth, (1, 64), rng)
        moments[..., wrong:] *= 1.1
        table = sweep_verdicts(moments, np.ones(depth), relu_log_sd(n, depth))
        detected.append((table["step_verdict"] == "disagrees").to_numpy())
        assert table["verdict"].iloc[wrong] == "disagrees" or not detected[-1][wrong]
    rate = np.mean(detected, axis=0)
    # For 19 tests about 50 draws have a power of 95 % (test_log_ratio.py), and 64 have more. But an
    # error equal to the margin passes as equivalent in 5 % of cases.
    assert rate[wrong] > 0.9 - 3 * np.sqrt(0.9 * 0.1 / trials)
    assert np.delete(rate, wrong).sum() < 0.05 + 3 * np.sqrt(0.05 * 0.95 / trials)


def test_steps_isolate_an_error_that_moments_accumulate() -> None:
    """With an error at layer 3, moments disagree from layer 3 on, but only one step disagrees.

    A step is the ratio of a layer's moment to that of the layer before.
    """
    moments = sample_relu_moments(256, 6, (1, 64), np.random.default_rng(2))
    moments[..., 2:] *= 2
    table = sweep_verdicts(moments, np.ones(6), relu_log_sd(256, 6))
    assert table["verdict"].tolist() == ["agrees", "agrees", *["disagrees"] * 4]
    assert (table["step_verdict"] == "disagrees").tolist() == [False, False, True, *[False] * 3]
    assert table["step"].iloc[2] == pytest.approx(np.log(2), abs=4 * table["step_se"].iloc[2])


def test_a_significant_difference_within_the_margin_agrees() -> None:
    moments = 1.03 * sample_relu_moments(256, 1, (1, 4000), np.random.default_rng(3))
    row = sweep_verdicts(moments, np.ones(1), relu_log_sd(256, 1)).iloc[0]
    assert row["verdict"] == "agrees"
    assert row["p_holm"] < 1e-6
    narrower = sweep_verdicts(moments, np.ones(1), relu_log_sd(256, 1), margin=1.01).iloc[0]
    assert narrower["verdict"] == "disagrees"


def test_too_few_draws_are_undecided_with_an_estimate() -> None:
    rng = np.random.default_rng(4)
    few = sweep_verdicts(
        sample_relu_moments(64, 10, (1, 4), rng), np.ones(10), relu_log_sd(64, 10)
    ).iloc[-1]
    assert few["verdict"] == "undecided"
    assert few["draws_needed"] > 500
    # Use three times as many, because the estimate from a few draws may be too small.
    many = sample_relu_moments(64, 10, (1, 3 * int(few["draws_needed"])), rng)
    assert sweep_verdicts(many, np.ones(10), relu_log_sd(64, 10)).iloc[-1]["verdict"] == "agrees"


def test_holm_corrects_over_all_settings_and_steps() -> None:
    moments = sample_relu_moments(64, 3, (5, 16), np.random.default_rng(5))
    table = sweep_verdicts(moments, np.ones(3), relu_log_sd(64, 3))
    p = np.concatenate([table["p"], table["step_p"].dropna()])
    assert len(p) == 15 + 10
    smallest = np.fmin(table["p"], table["step_p"]).min()
    corrected = np.fmin(table["p_holm"], table["step_p_holm"]).min()
    assert corrected == pytest.approx(min(len(p) * smallest, 1))


def test_a_wrong_predicted_spread_is_detected() -> None:
    moments = sample_relu_moments(256, 5, (1, 64), np.random.default_rng(6))
    row = sweep_verdicts(moments, np.ones(5), np.full(5, 0.1)).iloc[-1]
    assert row["sd_ratio"] == pytest.approx(relu_log_sd(256, 5)[-1] / 0.1, rel=0.3)
    assert row["spread_p_holm"] < 0.01


def test_without_a_predicted_spread_the_mean_is_tested() -> None:
    m = np.random.default_rng(7).lognormal(-0.02, 0.2, 400)  # E[m] = 1
    row = layer_verdict(m.tolist(), 1.0, np.nan)
    assert (row["test"], row["verdict"]) == ("mean", "agrees")
    assert row["log_ratio"] == pytest.approx(np.log(m.mean()))
    assert row["log_ratio_se"] == pytest.approx(m.std(ddof=1) / m.mean() / 20)
    assert np.isnan(row["sd_ratio"])
    assert layer_verdict(m.tolist(), 1.5, np.nan)["verdict"] == "disagrees"


def test_quantities_of_either_sign_are_compared_linearly() -> None:
    m = np.random.default_rng(8).normal(0.0, 0.1, 400)
    row = layer_verdict(m.tolist(), 0.0, np.nan, linear_unit=2.0)
    assert (row["test"], row["verdict"]) == ("linear", "agrees")
    assert row["log_ratio"] == pytest.approx(m.mean() / 2)
    assert layer_verdict(m.tolist(), 0.5, np.nan, linear_unit=2.0)["verdict"] == "disagrees"


@pytest.mark.parametrize(
    ("draws", "value", "log_sd", "kind", "verdict"),
    [
        ([0.0, 0.0], 0.0, np.nan, "zero", "not_tested"),
        ([0.0, 1e-9, 1e-8], 1e-8, 9.0, "zero", "not_tested"),  # one draw underflowed in float32
        ([0.0, 0.0], 1e-20, 0.5, "zero", "not_tested"),  # both draws underflowed
        ([0.0, 0.0], 0.3, 0.5, "zero", "disagrees"),
        ([0.3, 0.2], 0.0, np.nan, "zero", "disagrees"),
        ([2.0, 2.0], 2.0, 0.0, "constant", "not_tested"),
        ([2.0, 2.0 + 1e-6], 2.0, np.nan, "constant", "not_tested"),
        ([2.0, 2.0], 3.0, 0.0, "constant", "disagrees"),
        ([np.inf, 1.0], 1.0, 0.5, "overflowed", "not_tested"),
        ([1.0, 2.0], np.inf, 0.5, "overflowed", "not_tested"),
        ([1.0, 2.0], np.nan, np.nan, "unpredicted", "not_tested"),
    ],
)
def test_constant_zero_and_overflowed_moments_are_not_tested(
    draws: list[float], value: float, log_sd: float, kind: str, verdict: str
) -> None:
    row = layer_verdict(draws, value, log_sd)
    assert (row["kind"], row["verdict"]) == (kind, verdict)
    assert np.isnan([row["p"], row["p_holm"], row["sd_ratio"], row["draws_needed"]]).all()


def test_equal_draws_are_compared_with_a_predicted_spread() -> None:
    assert layer_verdict([2.0, 2.0, 2.0], 3.0, 0.4)["verdict"] == "disagrees"
    assert layer_verdict([2.0, 2.0, 2.0], 2.0 * np.exp(0.08), 0.4)["verdict"] == "agrees"


def test_a_single_draw_is_undecided() -> None:
    row = layer_verdict([1.02], 1.0, 0.3)
    assert row["verdict"] == "undecided"
    assert np.isnan(row["p"])
    assert row["draws_needed"] > 100


def rejection_rate(sds: np.ndarray, draws: int, predicted: float) -> float:
    """Return the fraction of p-values of at most 0.05."""
    ones = np.full(sds.shape, 1.0)
    return float((spread_p_value(sds, draws * ones, predicted * ones) <= 0.05).mean())


def test_spread_p_value_keeps_the_level_on_normal_numbers() -> None:
    trials = 20_000
    for draws in (3, 10, 64):
        sds = np.random.default_rng(draws).standard_normal((trials, draws)).std(1, ddof=1)
        assert abs(rejection_rate(sds, draws, 1.0) - 0.05) < 4 * np.sqrt(0.05 * 0.95 / trials)


@pytest.mark.parametrize(("n", "depth", "draws"), [(256, 20, 10), (512, 30, 20), (256, 20, 64)])
def test_wide_relu_networks_have_the_predicted_spread(n: int, depth: int, draws: int) -> None:
    """To first order in 1/n, the predicted spread has an error of at most 1 % at these widths."""
    logs = np.log(sample_relu_moments(n, depth, (5000, draws), np.random.default_rng(0))[..., -1])
    rate = rejection_rate(logs.std(1, ddof=1), draws, relu_log_sd(n, depth)[-1])
    assert 0.04 < rate < 0.065


# Of log chi-squared(1).
LOG_CHI2_SD, LOG_CHI2_SKEW, LOG_CHI2_KURTOSIS = np.pi / 2**0.5, -1.5351415907229, 4.0


def test_the_spread_of_chi_squared_moments_is_rejected_at_most_at_twice_the_level() -> None:
    trials, draws = 5000, 100
    logs = np.log(np.random.default_rng(0).chisquare(1, (trials, draws)))
    sds, ones = logs.std(1, ddof=1), np.ones(trials)
    predicted = draws * ones, LOG_CHI2_SD * ones
    p = spread_p_value(sds, *predicted, excess_kurtosis(LOG_CHI2_SKEW))
    assert (p <= 0.05).mean() < 0.1
    assert rejection_rate(sds, draws, LOG_CHI2_SD) > 0.2  # as if the logarithms were normal


def test_right_predictions_of_chi_squared_moments_are_rejected_at_the_level_of_a_t_test() -> None:
    layers, n, level = 4000, 50, 0.05
    moments = np.random.default_rng(1).chisquare(1, (layers, n, 1))
    prediction = np.ones(1), np.array([LOG_CHI2_SD])
    rejected = sweep_verdicts(moments, *prediction, log_skew=LOG_CHI2_SKEW)["p"] <= level
    # Edgeworth expansion of a two-sided t-test of n skewed numbers (Hall 1987, Edgeworth expansion
    # for Student's t statistic under minimal moment conditions).
    z = stats.norm.isf(level / 2)
    skew_term = LOG_CHI2_SKEW**2 * (z**4 + 2 * z**2 - 3) / 18
    kurtosis_term = LOG_CHI2_KURTOSIS * (z**2 - 3) / 12
    expected = level + 2 * z * stats.norm.pdf(z) * (skew_term - kurtosis_term) / n
    error = (expected * (1 - expected) / layers) ** 0.5
    # The next term is of order 1/n^2: the square of this one, times a number of order 10.
    assert rejected.mean() == pytest.approx(expected, abs=4 * error + 10 / n**2)
    # A log-normal distribution of mean 1 has another mean logarithm.
    assert (sweep_verdicts(moments, *prediction)["p"] <= level).mean() > 0.5


def test_thirty_draws_detect_half_the_spread() -> None:
    logs = np.log(sample_relu_moments(256, 20, (1000, 30), np.random.default_rng(0))[..., -1])
    assert rejection_rate(logs.std(1, ddof=1), 30, relu_log_sd(256, 20)[-1] / 2) > 0.99


def test_spread_p_value_is_nan_without_a_prediction() -> None:
    p = spread_p_value(np.array([0.1, 0.1]), np.array([9.0, 9.0]), np.array([np.nan, 0.0]))
    assert np.isnan(p).all()
