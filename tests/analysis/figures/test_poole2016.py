"""Tests of the study `poole2016`: the convergence of the correlation."""

import numpy as np
import pandas as pd
import pytest
from grids import poole2016

from analysis.figures.poole2016 import C_LAYERS, c_remaining


def one_seed(remaining: float, sd: float = 0.0) -> pd.DataFrame:
    """Return one seed in which a share of each start's first deviation from c* remains."""
    cells = poole2016().query("seed == 0")
    at_1 = cells.query("layer == 1").set_index(["gain", "start"])["c_map"]
    first = cells.set_index(["gain", "start"]).index.map(at_1) - cells["c_star"]
    noise = sd * np.random.default_rng(0).standard_normal(len(cells))
    later = cells["c_star"] + remaining * first + noise
    return cells.assign(c=later.where(cells["layer"] > 1, cells["c_map"]))


@pytest.mark.parametrize("ordered", [True, False])
def test_the_share_of_the_first_deviation_that_remains(ordered: bool) -> None:
    assert c_remaining(one_seed(0.25), ordered) == pytest.approx(0.25)


def test_noise_of_a_converged_correlation_leaves_less_than_its_absolute_value_does() -> None:
    noisy = one_seed(0.0, sd=0.03)
    last = noisy[(noisy["layer"] == C_LAYERS) & (noisy["chi_1"] > 1)]
    absolute = (last["c"] - last["c_star"]).abs().mean()
    first = noisy.query("layer == 1 and chi_1 > 1").eval("c - c_star").abs().mean()
    assert c_remaining(noisy, ordered=False) < 0.75 * absolute / first


def test_a_correlation_that_only_crosses_its_limit_has_not_converged() -> None:
    cells = one_seed(0.0)
    crossing = cells["c"] + 0.01 * (C_LAYERS - cells["layer"]) * (cells["layer"] > 1)
    assert c_remaining(cells.assign(c=crossing), ordered=False) > 0.3


def test_an_outcome_that_does_not_depend_on_the_layer_has_not_converged() -> None:
    cells = one_seed(0.0)
    for constant in (cells["c_star"], cells["c_star"] + 0.1):
        assert c_remaining(cells.assign(c=constant), ordered=False) >= 1


def test_each_phase_has_its_own_convergence() -> None:
    cells = one_seed(0.0)
    stuck = cells["c"].where((cells["chi_1"] > 1) | (cells["layer"] == 1), 0.0)
    assert c_remaining(cells.assign(c=stuck), ordered=False) == pytest.approx(0)
    assert c_remaining(cells.assign(c=stuck), ordered=True) > 1
