"""Tests of the study `schoenholz2017`: wrong dependences of the trainable depth on xi_c."""

from collections.abc import Callable

import pandas as pd
import pytest
from grids import schoenholz2017

from analysis.figures.schoenholz2017 import (
    STUDY,
    flat_above_critical,
    peak_at_next_variance,
    trainable_depths,
)

XI = [1.0, 2.0, 4.0, 1000.0, 8.0, 6.0, 3.0, 1.5]  # largest at the fourth variance


def depth_table(depths: list[float]) -> pd.DataFrame:
    """Return networks of one seed that train to these depths, at eight weight variances."""
    rows = [
        {"seed": 0, "steps": steps, "weight_var": i, "xi_c": xi, "depth": depth}
        for i, xi in enumerate(XI)
        for depth in (10, 20, 40, 80, 160)
        for steps in (200, 600)
    ]
    table = pd.DataFrame(rows)
    limit = table["weight_var"].map(dict(enumerate(depths)))
    return table.assign(accuracy=1 / (1 + (table["depth"] / limit) ** 3))


def correlation(depths: list[float]) -> float:
    return float(STUDY.effects["rank_correlation"](depth_table(depths)).iloc[0])


def test_the_side_with_the_smaller_rank_correlation_counts() -> None:
    assert correlation([20, 30, 50, 90, 70, 60, 40, 25]) == pytest.approx(1)
    assert correlation([20, 30, 50, 90, 90, 90, 90, 90]) == 0
    assert correlation([90, 90, 90, 90, 70, 60, 40, 25]) == 0


def test_a_peak_at_a_neighbour_of_the_critical_variance_is_an_exchange_of_ranks() -> None:
    assert correlation([20, 30, 50, 80, 90, 60, 40, 25]) == pytest.approx(0.9)
    assert correlation([20, 30, 90, 80, 70, 60, 40, 25]) == pytest.approx(0.8)


@pytest.mark.parametrize("wrong", [flat_above_critical, peak_at_next_variance])
@pytest.mark.parametrize("effect", ["rank_correlation", "early_rank_correlation"])
def test_wrong_depths_do_not_exceed_the_criterion(
    wrong: Callable[[pd.DataFrame], pd.DataFrame], effect: str
) -> None:
    values = STUDY.effects[effect](wrong(schoenholz2017()))
    assert len(values) == 12
    assert values.max() <= 0.9 + 1e-9


def test_null_models_train_to_the_depths_that_their_names_say() -> None:
    cells = schoenholz2017().query("seed == 5 and steps == 750")
    flat = trainable_depths(flat_above_critical(cells))["trainable"].tolist()
    peak = trainable_depths(peak_at_next_variance(cells))["trainable"]
    assert flat[0] < flat[1] < flat[2] < flat[3] == flat[4] == flat[7]
    assert int(peak.idxmax()) == 4
