"""Real sweeps against theory: wide networks agree, and certified inits equalize the layers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from analysis import Results
from analysis.theory_comparison import compare_to_theory, layer_table


@pytest.fixture(scope="module")
def layer_2(wide: Results) -> dict[str, pd.Series]:
    """Return the row of layer 2 by init, with the sampling error of mean field."""
    rows = {}
    for comparison in compare_to_theory(wide):
        row = layer_table(comparison).set_index("layer").loc[2]
        theory = comparison.predicted
        (sampling,) = theory[
            (theory.theory == "mean_field")
            & (theory.quantity == "preact_m2")
            & (theory.image == -1)
            & (theory.layer == 2)
        ].sampling_se
        rows[comparison.setting.axis_values["init"]] = pd.concat(
            [row, pd.Series({"sampling": sampling})]
        )
    return rows


@pytest.mark.parametrize("theory", ["he", "mean_field"])
def test_he_normal_agrees_with_both_theories(layer_2: dict[str, pd.Series], theory: str) -> None:
    row = layer_2["he_normal"]
    assert row.draws == 16
    assert abs(row[f"measured/{theory}"] - 1) < 3 * row.se / row[theory]
    # The band is narrow enough to exclude Glorot's gain of 1.
    assert 3 * row.se / row[theory] < 0.5


def test_positive_weights_agree_with_mean_field(layer_2: dict[str, pd.Series]) -> None:
    """A weight mean of 1/2 makes all units similar; mean field includes it."""
    row = layer_2["uniform"]
    error = (row.se**2 + row.sampling**2) ** 0.5
    assert abs(row.measured - row.mean_field) < 3 * error
    assert 3 * error < 0.1 * row.measured


def test_positive_weights_disagree_with_the_product_formula(
    layer_2: dict[str, pd.Series],
) -> None:
    assert layer_2["uniform"]["measured/he"] > 1e3


def test_certified_keeps_second_moments_near_one(sweep: Callable[..., Results]) -> None:
    """Compare with He on a network with padding and pooling, where He's formula fails."""
    network = ("model=two_layer", "model.channels=16", "train.steps=2", "probe.draws=6")
    results = sweep("certified", "init=certified,he_normal", *network)
    assert (results.cells.outcome == "ok").all()
    rows = results.layers[(results.layers.quantity == "preact_m2") & (results.layers.image == -1)]
    rows = rows[rows.step == 0].merge(results.cells[["cell_id", "init._target_"]])
    logs = rows.assign(value=np.log(rows.value)).groupby(["init._target_", "layer"], observed=True)
    mean, error = logs.value.mean(), logs.value.std() / 6**0.5
    certified = "fanin.theory.prescribe.Certified"
    # It used eight of the probe images, and sixteen channels leave a bias of order 1/16.
    assert (mean[certified].abs() < 4 * error[certified] + 0.2).all()
    assert mean["fanin.inits.HeNormal"].abs().max() > 2 * mean[certified].abs().max()
