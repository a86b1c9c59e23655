"""Ranks over many settings, against published worked examples."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fanin.statistics.ranks import average_ranks

# AUC of C4.5, C4.5+m, C4.5+cf and C4.5+m+cf on 14 data sets (Demsar 2006, table 6). His ranks of
# "voting" tell its third and fourth, both printed 0.975, apart.
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.97501, 0.975],
        [0.957, 0.978, 0.946, 0.970],
    ]
)
# Seconds by three ways to round first base, 22 players (Hollander & Wolfe 1973, p. 140).
ROUNDING = np.array(
    [
        *([5.40, 5.50, 5.55], [5.85, 5.70, 5.75], [5.20, 5.60, 5.50], [5.55, 5.50, 5.40]),
        *([5.90, 5.85, 5.70], [5.45, 5.55, 5.60], [5.40, 5.40, 5.35], [5.45, 5.50, 5.35]),
        *([5.25, 5.15, 5.00], [5.85, 5.80, 5.70], [5.25, 5.20, 5.10], [5.65, 5.55, 5.45]),
        *([5.60, 5.35, 5.45], [5.05, 5.00, 4.95], [5.50, 5.50, 5.40], [5.45, 5.55, 5.50]),
        *([5.55, 5.55, 5.35], [5.45, 5.50, 5.55], [5.50, 5.45, 5.25], [5.65, 5.60, 5.40]),
        *([5.70, 5.65, 5.55], [6.30, 6.30, 6.25]),
    ]
)


def test_average_ranks_of_demsars_example() -> None:
    found = average_ranks(DEMSAR)
    assert found.average.round(3).tolist() == [3.143, 2.0, 2.893, 1.964]
    assert found.settings == 14


def test_critical_difference_of_demsars_example() -> None:
    # Section 3.2.2: 1.25 at 5 % for four classifiers on 14 data sets, 1.12 at 10 %.
    assert average_ranks(DEMSAR).critical_difference == pytest.approx(1.25, abs=0.005)
    assert average_ranks(DEMSAR, level=0.1).critical_difference == pytest.approx(1.12, abs=0.005)


def test_friedman_of_hollander_and_wolfes_example() -> None:
    # Chi-squared 11.1429 on 2 degrees of freedom, p = 0.003805.
    assert average_ranks(-ROUNDING).p == pytest.approx(0.003805, abs=5e-7)


def test_two_strategies_have_ranks_and_no_friedman() -> None:
    found = average_ranks(np.array([[1.0, 2.0], [1.0, 1.0], [0.0, 3.0]]))
    assert found.average.tolist() == pytest.approx([2.5 / 3 + 1, 3.5 / 3])
    assert np.isnan(found.p)


@pytest.mark.parametrize("settings", range(2, 21))
def test_two_equals_are_told_apart_no_more_often_than_stated(settings: int) -> None:
    found = average_ranks(np.zeros((settings, 2))).critical_difference
    apart = [wins for wins in range(settings + 1) if abs(2 * wins - settings) / settings >= found]
    chance = sum(math.comb(settings, wins) for wins in apart) / 2**settings
    assert chance <= 0.05
    most_won_by_the_others = max(set(range(settings + 1)) - set(apart), default=0)
    one_win_less = 2 * math.comb(settings, most_won_by_the_others)
    assert chance + one_win_less / 2**settings > 0.05


def test_two_strategies_by_the_sign_test() -> None:
    # Five wins of five happen to one of two equals in 2 of 32 cases, six of six in 2 of 64.
    assert average_ranks(np.zeros((5, 2))).critical_difference == np.inf
    assert average_ranks(np.zeros((6, 2))).critical_difference == 1.0
    # 15 or more of 20: p = 0.0414.
    assert average_ranks(np.zeros((20, 2))).critical_difference == (15 - 5) / 20


def test_strategies_that_tie_everywhere_are_alike() -> None:
    found = average_ranks(np.ones((4, 3)))
    assert found.p == 1.0
    assert found.average.tolist() == [2.0, 2.0, 2.0]
