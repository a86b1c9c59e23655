"""Coverage of intervals, and what can be said of coverage itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from relu_moments import sample_relu_moments, relu_log_sd

from fanin.statistics.coverage import Coverage, coverage, inside

N, DEPTH, DRAWS = 64, 10, 64
SD = relu_log_sd(N, DEPTH)
SWEEPS = 100


def _hits(moments: np.ndarray, shrink: float = 1.0) -> np.ndarray:
    """Whether theory's intervals, shrunk, hold moments [..., layer]; the law's median stays."""
    median = np.broadcast_to(-(SD**2) / 2, moments.shape)
    sd = np.broadcast_to(SD * shrink, moments.shape)
    return inside(np.log(moments), median + sd**2 / 2, sd)


def _sweep(cells: int, seeds: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Moments [cell, draw, layer], with each one's cell and stream: cells share their seeds'."""
    moments = np.tile(sample_relu_moments(N, DEPTH, (seeds, DRAWS), rng), (cells // seeds, 1, 1))
    cell = np.broadcast_to(np.arange(cells)[:, None, None], moments.shape)
    draw = (np.arange(cells) % seeds)[:, None, None] * DRAWS + np.arange(DRAWS)[:, None]
    return moments, cell, np.broadcast_to(draw, moments.shape)


def _counted(hits: np.ndarray, cell: np.ndarray, stream: np.ndarray) -> Coverage:
    return coverage(hits.ravel(), cell.ravel(), stream.ravel())


def test_intervals_cover_95_percent_of_relu_chains() -> None:
    """First-order theory at width 64, depth 10: within the 93 to 97 % that is aimed at."""
    rng = np.random.default_rng(0)
    found = _counted(*(lambda m, c, s: (_hits(m), c, s))(*_sweep(40, 40, rng)))
    assert 0.93 < found.low < found.share < found.high < 0.97
    assert not found.is_outside()
    assert (found.draws, found.cells) == (40 * DRAWS * DEPTH, 40)


@pytest.mark.parametrize(("cells", "seeds"), [(40, 40), (64, 4), (16, 1)])
def test_intervals_of_half_the_width_fail(cells: int, seeds: int) -> None:
    """They hold 67 % (erf(0.98 / sqrt 2)); so it shows however few independent draws there are."""
    moments, cell, stream = _sweep(cells, seeds, np.random.default_rng(1))
    found = _counted(_hits(moments, 0.5), cell, stream)
    assert found.low < 0.673 < found.high
    assert found.is_outside()


def test_intervals_that_are_too_wide_fail() -> None:
    moments, cell, stream = _sweep(40, 40, np.random.default_rng(2))
    assert _counted(_hits(moments, 1.5), cell, stream).is_outside()


@cache
def _true_share() -> float:
    """Of 2 million moments, so that its own error, 0.02 %, does not matter."""
    return float(_hits(sample_relu_moments(N, DEPTH, (200_000,), np.random.default_rng(4))).mean())


def _share_of_sweeps_whose_interval_holds(
    truth: float, counted: Callable[[np.random.Generator], Coverage]
) -> float:
    rng = np.random.default_rng(3)
    found = [counted(rng) for _ in range(SWEEPS)]
    return float(np.mean([c.low <= truth <= c.high for c in found]))


@pytest.mark.parametrize(("cells", "seeds"), [(20, 20), (32, 4), (16, 1)])
def test_coverage_intervals_have_their_nominal_coverage(cells: int, seeds: int) -> None:
    """Layers of a draw go together, and so do cells made from the same random numbers.

    100 sweeps: one standard error of 95 % is 2.2 %.
    """
    truth = _true_share()

    def counted(rng: np.random.Generator) -> Coverage:
        moments, cell, stream = _sweep(cells, seeds, rng)
        return _counted(_hits(moments), cell, stream)

    assert _share_of_sweeps_whose_interval_holds(truth, counted) > 0.95 - 3 * 0.0218


def test_clustering_by_cell_alone_is_too_narrow() -> None:
    truth = _true_share()

    def counted(rng: np.random.Generator) -> Coverage:
        moments, cell, _ = _sweep(64, 4, rng)
        return _counted(_hits(moments), cell, np.arange(moments.size))

    assert _share_of_sweeps_whose_interval_holds(truth, counted) < 0.8


def test_errors_shared_by_a_cell_widen_the_interval() -> None:
    """Its error is shared by all draws of a cell: as many draws tell less."""
    rng = np.random.default_rng(5)
    moments, cell, stream = _sweep(20, 20, rng)
    right = _counted(_hits(moments), cell, stream)
    off = moments * np.exp(rng.normal(0, 0.3, (20, 1, 1)))
    wrong = _counted(_hits(off), cell, stream)
    assert wrong.share < right.share
    assert wrong.high - wrong.low > 2 * (right.high - right.low)


def test_full_coverage_has_a_lower_bound_below_one() -> None:
    found = coverage(np.ones(100, bool), np.arange(100) // 10, np.arange(100))
    # Ten cells: Wilson's interval for 10 of 10 by Student's t with 9 degrees of freedom.
    assert (found.share, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(10 / (10 + 2.2622**2), rel=1e-4)


def test_coverage_without_draws_is_nan() -> None:
    none = coverage(np.zeros(0, bool), np.zeros(0), np.zeros(0))
    assert np.isnan(none.share)
    assert not none.is_outside()


def test_intervals_match_the_lognormal_distribution() -> None:
    """E[m] = value: the median lies at value exp(-log_sd^2 / 2), 1.96 sd span 95 %."""
    sd = np.full(200_000, 0.8)
    m = np.random.default_rng(6).lognormal(np.log(3) - 0.8**2 / 2, 0.8, sd.shape)
    assert m.mean() == pytest.approx(3, rel=5 * np.sqrt(np.expm1(0.64) / m.size))
    share = inside(np.log(m), np.full(sd.shape, np.log(3)), sd).mean()
    assert share == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / m.size))
