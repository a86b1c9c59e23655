"""A wide network agrees with theory in what `analysis.check` makes of a real sweep.

`wide` is a bias-free ReLU mlp of width 512 on real digits, sixteen draws of its weights.
"""

from __future__ import annotations

import pandas as pd
import pytest

from analysis import Results
from analysis.comparison import compare, table


@pytest.fixture(scope="module")
def layer_2(wide: Results) -> dict[str, pd.Series]:
    """Layer 2's row of the check's table, by init; `sampling_se` is mean field's own."""
    rows = {}
    for comparison in compare(wide):
        row = table(comparison).set_index("layer").loc[2]
        theory = comparison.predicted
        (sampling,) = theory[
            (theory.rung == "mean_field")
            & (theory.quantity == "preact_m2")
            & (theory.image == -1)
            & (theory.layer == 2)
        ].sampling_se
        rows[comparison.setting.words["init"]] = pd.concat([row, pd.Series({"sampling": sampling})])
    return rows


@pytest.mark.parametrize("rung", ["he", "mean_field"])
def test_he_normal_keeps_the_second_moment_that_both_rungs_predict(
    layer_2: dict[str, pd.Series], rung: str
) -> None:
    row = layer_2["he_normal"]
    assert row.draws == 16
    assert abs(row[f"measured/{rung}"] - 1) < 3 * row.se / row[rung]
    # The band is narrow enough to be a statement: it excludes Glorot's gain of 1.
    assert 3 * row.se / row[rung] < 0.5


def test_positive_weights_agree_with_mean_field(layer_2: dict[str, pd.Series]) -> None:
    """Weights of mean 1/2 make all units alike; rung 2 follows that shared mean."""
    row = layer_2["uniform"]
    spread = (row.se**2 + row.sampling**2) ** 0.5
    assert abs(row.measured - row.mean_field) < 3 * spread
    assert 3 * spread < 0.1 * row.measured


def test_positive_weights_refute_the_product_formula_by_orders_of_magnitude(
    layer_2: dict[str, pd.Series],
) -> None:
    assert layer_2["uniform"]["measured/he"] > 1e3
