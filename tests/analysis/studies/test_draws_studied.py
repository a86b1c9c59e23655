"""Tests of `measure_draws` with formulas that are exact at any width."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from analysis.studies.draws import mean_and_error, measure_draws
from fanin.inits import HeNormal, Init, Lsuv

IMAGES = torch.arange(24, dtype=torch.float64).reshape(2, 1, 3, 4) / 24


def _network() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 5)).double()


def test_the_mean_over_draws_agrees_with_he() -> None:
    """He's formula is exact at every width for symmetric weights and ReLU."""
    draws = measure_draws(_network(), Init(HeNormal()), IMAGES, 200)
    means = mean_and_error(draws, "preact_m2")
    assert means.layer_name.tolist() == ["1", "3"]
    predicted = 2 * float(IMAGES.square().mean())
    assert (np.abs(means["mean"] - predicted) < 4 * means.se).all()
    assert (means.se > 0).all()


def test_draws_are_independent_and_reproducible() -> None:
    first = measure_draws(_network(), Init(HeNormal()), IMAGES, 3)
    assert first.query("quantity == 'preact_m2' and layer == 1").value.nunique() == 3
    assert measure_draws(_network(), Init(HeNormal()), IMAGES, 3).equals(first)
    other = measure_draws(_network(), Init(HeNormal()), IMAGES, 3, seed=1)
    assert not np.isclose(other.value[:4], first.value[:4]).any()


def test_lsuv_uses_the_calibration_images() -> None:
    """LSUV sets the variance over the batch to 1, within its tolerance of 0.1."""
    batch = torch.randn(64, 1, 3, 4, generator=torch.Generator().manual_seed(0))
    draws = measure_draws(_network(), Init(Lsuv()), batch.double(), 2, calibration=batch)
    rows = draws[(draws.quantity == "preact_m2")]
    # A second moment is at least the variance; the squared means are small here.
    assert ((rows.value > 0.9) & (rows.value < 1.5)).all()
