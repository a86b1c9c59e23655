"""Tests of coverage and its confidence interval."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from relu_moments import relu_log_sd, sample_relu_moments

from fanin.statistics.coverage import Coverage, coverage, inside

N, DEPTH, DRAWS = 64, 10, 64
SD = relu_log_sd(N, DEPTH)
SWEEPS = 100


def _hits(moments: np.ndarray, shrink: float = 1.0) -> np.ndarray:
    """Return True where moments [..., layer] lie in theory's intervals, scaled about the median."""
    median = np.broadcast_to(-(SD**2) / 2, moments.shape)
    sd = np.broadcast_to(SD * shrink, moments.shape)
    return inside(np.log(moments), median + sd**2 / 2, sd)


def _sweep(cells: int, seeds: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Return moments [cell, draw, layer] with the cell and stream of each. Cells share seeds."""
    moments = np.tile(sample_relu_moments(N, DEPTH, (seeds, DRAWS), rng), (cells // seeds, 1, 1))
    cell = np.broadcast_to(np.arange(cells)[:, None, None], moments.shape)
    draw = (np.arange(cells) % seeds)[:, None, None] * DRAWS + np.arange(DRAWS)[:, None]
    return moments, cell, np.broadcast_to(draw, moments.shape)


def _coverage(hits: np.ndarray, cell: np.ndarray, stream: np.ndarray) -> Coverage:
    return coverage(hits.ravel(), cell.ravel(), stream.ravel())


def test_intervals_cover_95_percent_of_relu_chains() -> None:
    """First-order theory at width 64 and depth 10 has a coverage of 93 to 97 %."""
    moments, cell, stream = _sweep(40, 40, np.random.default_rng(0))
    result = _coverage(_hits(moments), cell, stream)
    assert 0.93 < result.low < result.share < result.high < 0.97
    assert not result.is_outside()
    assert (result.draws, result.cells) == (40 * DRAWS * DEPTH, 40)


@pytest.mark.parametrize(("cells", "seeds"), [(40, 40), (64, 4), (16, 1)])
def test_intervals_of_half_the_width_fail(cells: int, seeds: int) -> None:
    """Their coverage is 67 % (erf(0.98 / sqrt 2)), which a few independent draws detect."""
    moments, cell, stream = _sweep(cells, seeds, np.random.default_rng(1))
    result = _coverage(_hits(moments, 0.5), cell, stream)
    assert result.low < 0.673 < result.high
    assert result.is_outside()


def test_intervals_that_are_too_wide_fail() -> None:
    moments, cell, stream = _sweep(40, 40, np.random.default_rng(2))
    assert _coverage(_hits(moments, 1.5), cell, stream).is_outside()


@cache
def _true_share() -> float:
    """Return the coverage of 2 million moments, with a negligible error of 0.02 %."""
    return float(_hits(sample_relu_moments(N, DEPTH, (200_000,), np.random.default_rng(4))).mean())


def _coverage_of_intervals(
    true_share: float, estimate: Callable[[np.random.Generator], Coverage]
) -> float:
    """Return the fraction of simulated sweeps with `true_share` in their interval."""
    rng = np.random.default_rng(3)
    results = [estimate(rng) for _ in range(SWEEPS)]
    return float(np.mean([result.low <= true_share <= result.high for result in results]))


@pytest.mark.parametrize(("cells", "seeds"), [(20, 20), (32, 4), (16, 1)])
def test_coverage_intervals_have_their_nominal_coverage(cells: int, seeds: int) -> None:
    """The layers of a draw are dependent, and so are cells with the same random numbers.

    For 100 sweeps, the standard error of 95 % is 2.2 %.
    """

    def estimate(rng: np.random.Generator) -> Coverage:
        moments, cell, stream = _sweep(cells, seeds, rng)
        return _coverage(_hits(moments), cell, stream)

    assert _coverage_of_intervals(_true_share(), estimate) > 0.95 - 3 * 0.0218


def test_clustering_by_cell_alone_is_too_narrow() -> None:
    def estimate(rng: np.random.Generator) -> Coverage:
        moments, cell, _ = _sweep(64, 4, rng)
        return _coverage(_hits(moments), cell, np.arange(moments.size))

    assert _coverage_of_intervals(_true_share(), estimate) < 0.8


def test_errors_shared_by_a_cell_widen_the_interval() -> None:
    """All draws of a cell have the same error, so they carry less information."""
    rng = np.random.default_rng(5)
    moments, cell, stream = _sweep(20, 20, rng)
    exact = _coverage(_hits(moments), cell, stream)
    shifted = moments * np.exp(rng.normal(0, 0.3, (20, 1, 1)))
    inexact = _coverage(_hits(shifted), cell, stream)
    assert inexact.share < exact.share
    assert inexact.high - inexact.low > 2 * (exact.high - exact.low)


def test_full_coverage_has_a_lower_bound_below_one() -> None:
    result = coverage(np.ones(100, bool), np.arange(100) // 10, np.arange(100))
    # Wilson's interval for 10 of 10 cells, with Student's t of 9 degrees of freedom.
    assert (result.share, result.high) == (1.0, 1.0)
    assert result.low == pytest.approx(10 / (10 + 2.2622**2), rel=1e-4)


def test_coverage_without_draws_is_nan() -> None:
    result = coverage(np.zeros(0, bool), np.zeros(0), np.zeros(0))
    assert np.isnan(result.share)
    assert not result.is_outside()


def test_intervals_match_the_lognormal_distribution() -> None:
    """With E[m] = value, the median is value exp(-log_sd^2 / 2), and 1.96 sd cover 95 %."""
    sd = np.full(200_000, 0.8)
    m = np.random.default_rng(6).lognormal(np.log(3) - 0.8**2 / 2, 0.8, sd.shape)
    assert m.mean() == pytest.approx(3, rel=5 * np.sqrt(np.expm1(0.64) / m.size))
    share = inside(np.log(m), np.full(sd.shape, np.log(3)), sd).mean()
    assert share == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / m.size))
