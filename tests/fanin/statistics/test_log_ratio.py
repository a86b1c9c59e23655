"""Tests of the level and power of the tests of a mean, on simulated ReLU networks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from relu_moments import relu_log_sd, sample_relu_moments
from scipy import stats

from fanin.statistics.log_ratio import LogRatio, draws_needed, is_equivalent, ratio_p_value

LEVEL = 0.05
# Accepted range of the false positive rate of a test at a nominal 5 %.
LOWEST, HIGHEST = 0.04, 0.065


def ratios(contributions: np.ndarray, theory_se: float | np.ndarray = 0.0) -> LogRatio:
    """Return one test per trial of `contributions` [trial, draw]."""
    trials, draws = contributions.shape
    return LogRatio(
        value=contributions.mean(1),
        draw_sd=contributions.std(1, ddof=1),
        draws=np.full(trials, float(draws)),
        theory_se=np.broadcast_to(theory_se, (trials,)),
    )


def single_ratio(value: float, draw_sd: float, draws: int = 2, theory_se: float = 0.0) -> LogRatio:
    return LogRatio(*(np.array([float(x)]) for x in (value, draw_sd, draws, theory_se)))


def rejection_rate(ratio: LogRatio) -> float:
    return float((ratio_p_value(ratio) <= LEVEL).mean())


# Width, depth and draws of the table in derivations.md, 5.4, and of the sweep `theory_grid`.
NETS = [(256, 20, 10), (64, 10, 10), (512, 30, 20), (64, 10, 64)]


@pytest.mark.parametrize(("n", "depth", "draws"), NETS)
def test_false_positives_of_moments_keep_the_level(n: int, depth: int, draws: int) -> None:
    trials = 8000
    rng = np.random.default_rng(n + draws)
    logs = np.log(sample_relu_moments(n, depth, (trials, draws), rng))
    # The standard error of 8,000 trials is 0.24 %, so 4 and 6.5 % are four and six of them away.
    for layer in (0, depth // 2, depth - 1):
        correction = relu_log_sd(n, depth)[layer] ** 2 / 2
        assert LOWEST < rejection_rate(ratios(logs[..., layer] + correction)) < HIGHEST


def test_tests_without_the_second_term_reject_too_often() -> None:
    """derivations.md gives 0.13 to 0.23 for a t-test of log m alone, and 0.09 to 0.14 for m."""
    m = sample_relu_moments(64, 10, (4000, 10), np.random.default_rng(0))[..., -1]
    assert rejection_rate(ratios(np.log(m))) > 0.15
    assert rejection_rate(ratios(m - 1)) > 0.09


@pytest.mark.parametrize(("n", "depth", "draws"), NETS)
def test_false_positives_of_steps_keep_the_level(n: int, depth: int, draws: int) -> None:
    trials = 8000
    rng = np.random.default_rng(n + draws)
    logs = np.log(sample_relu_moments(n, depth, (trials, draws), rng))
    expected = -np.diff(relu_log_sd(n, depth) ** 2) / 2
    for layer in (0, depth - 2):
        step = logs[..., layer + 1] - logs[..., layer] - expected[layer]
        assert LOWEST < rejection_rate(ratios(step)) < HIGHEST


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_false_positives_keep_the_level_with_theory_error(share: float) -> None:
    """The theory's standard error, from four repeats, is `share` times that of the draws."""
    n, depth, draws, trials = 256, 5, 64, 8000
    rng = np.random.default_rng(5)
    sd = relu_log_sd(n, depth)[-1]
    contributions = np.log(sample_relu_moments(n, depth, (trials, draws), rng)[..., -1]) + sd**2 / 2
    repeats = rng.normal(0, 2 * share * sd / np.sqrt(draws), (trials, 4))
    noisy = contributions - repeats.mean(1, keepdims=True)
    rate = rejection_rate(ratios(noisy, repeats.std(1, ddof=1) / 2))
    assert LOWEST < rate < HIGHEST
    # With the degrees of freedom of the draws alone, the test rejects too often.
    if share > 1:
        ratio = ratios(noisy, repeats.std(1, ddof=1) / 2)
        p = 2 * stats.t.sf(np.abs(ratio.value) / ratio.se, draws - 1)
        assert (p <= LEVEL).mean() > HIGHEST


def test_small_samples_keep_the_level() -> None:
    """The tolerance is five standard errors of 20,000 trials."""
    for draws in (2, 3, 30):
        trials = 20_000
        z = np.random.default_rng(draws).standard_normal((trials, draws))
        assert abs(rejection_rate(ratios(z)) - LEVEL) < 5 * np.sqrt(LEVEL * (1 - LEVEL) / trials)


@pytest.mark.parametrize("corrected_for", [1, 39])
def test_draws_needed_detect_a_ten_percent_error(
    corrected_for: int,
) -> None:
    """The weight variance is 10 % too large at layer 11 of 20, width 256.

    `draws_needed` gives a power of 95 %; the standard error of 800 trials is 0.8 %. Detecting the
    error takes hundreds of draws with the last layer's moment, and tens with the layer's step.
    """
    n, depth, wrong, trials = 256, 20, 10, 800
    level, error = LEVEL / corrected_for, np.log(1.1)
    rng = np.random.default_rng(corrected_for)
    sd = relu_log_sd(n, depth)
    pilot = np.log(sample_relu_moments(n, depth, (5000,), rng))
    step_sd = (pilot[:, wrong] - pilot[:, wrong - 1]).std()
    on_moment = int(draws_needed(single_ratio(error, sd[-1]), 1.1, level)[0])
    on_step = int(draws_needed(single_ratio(error, step_sd), 1.1, level)[0])
    assert on_moment > 500
    assert on_step < 60

    logs = np.log(sample_relu_moments(n, depth, (trials, on_step), rng))
    logs[..., wrong:] += error
    step = logs[..., wrong] - logs[..., wrong - 1] + (sd[wrong] ** 2 - sd[wrong - 1] ** 2) / 2
    power = (ratio_p_value(ratios(step)) <= level).mean()
    assert power > 0.95 - 4 * np.sqrt(0.95 * 0.05 / trials)

    trials = 100
    last = (
        np.log(sample_relu_moments(n, depth, (trials, on_moment), rng)[..., -1])
        + error
        + sd[-1] ** 2 / 2
    )
    power = (ratio_p_value(ratios(last)) <= level).mean()
    assert power > 0.95 - 4 * np.sqrt(0.95 * 0.05 / trials)


def test_a_correct_theory_agrees_with_draws_needed() -> None:
    """(z.95 + z.95)^2 beta / log(1.1)^2 draws give a power of 90 % for both one-sided tests."""
    n, depth, trials = 256, 5, 800
    rng = np.random.default_rng(3)
    sd = relu_log_sd(n, depth)[-1]
    needed = int(draws_needed(single_ratio(0.0, sd), 1.1, LEVEL)[0])
    assert needed == pytest.approx((2 * 1.6449) ** 2 * sd**2 / np.log(1.1) ** 2, abs=2.5)
    contributions = (
        np.log(sample_relu_moments(n, depth, (trials, needed), rng)[..., -1]) + sd**2 / 2
    )
    agrees = is_equivalent(ratios(contributions), 1.1).mean()
    assert agrees > 0.9 - 4 * np.sqrt(0.9 * 0.1 / trials)


def test_a_layer_at_the_margin_passes_in_5_percent() -> None:
    trials = 20_000
    z = np.random.default_rng(0).standard_normal((trials, 20)) * 0.1 + np.log(1.1)
    passes = is_equivalent(ratios(z), 1.1).mean()
    assert abs(passes - 0.05) < 4 * np.sqrt(0.05 * 0.95 / trials)


def test_equivalence_matches_the_90_percent_interval() -> None:
    z = np.random.default_rng(0).standard_normal((200, 12)) * 0.15
    low, high = stats.t.interval(0.9, 11, z.mean(1), stats.sem(z, axis=1))
    inside = (low > -np.log(1.1)) & (high < np.log(1.1))
    assert inside.any()
    assert not inside.all()
    np.testing.assert_array_equal(is_equivalent(ratios(z), 1.1), inside)


def test_p_values_match_scipy() -> None:
    z = np.random.default_rng(0).standard_normal((50, 9)) + 0.3
    np.testing.assert_allclose(ratio_p_value(ratios(z)), stats.ttest_1samp(z, 0, axis=1).pvalue)


def test_more_draws_do_not_reduce_the_theory_error() -> None:
    assert draws_needed(single_ratio(0.0, 0.1, theory_se=0.05), 1.1, LEVEL)[0] == np.inf
    small_error = draws_needed(single_ratio(0.0, 0.1, theory_se=0.01), 1.1, LEVEL)[0]
    assert draws_needed(single_ratio(0.0, 0.1), 1.1, LEVEL)[0] < small_error < np.inf


def test_one_draw_is_undecided() -> None:
    single = single_ratio(0.02, np.nan, draws=1)
    assert np.isnan(ratio_p_value(single)[0])
    assert not is_equivalent(single, 1.1)[0]
    assert np.isnan(draws_needed(single, 1.1, LEVEL)[0])
    assert draws_needed(single, 1.1, LEVEL, predicted_sd=0.3)[0] > 100


@settings(derandomize=True)
@given(
    st.floats(-3, 3), st.floats(1e-3, 3), st.integers(2, 1000), st.floats(0, 1), st.floats(1.01, 3)
)
def test_draws_needed_exceeds_the_current_number(
    value: float, sd: float, draws: int, theory_se: float, margin: float
) -> None:
    assert draws_needed(single_ratio(value, sd, draws, theory_se), margin, LEVEL)[0] > draws
