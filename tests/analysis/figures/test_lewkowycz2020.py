"""Tests of the onsets of the study `lewkowycz2020`."""

import math

import pandas as pd
import pytest
from grids import lewkowycz2020

from analysis.figures.lewkowycz2020 import STUDY, onset, rises_from
from analysis.scoring.scored_study import registered_scoring
from analysis.scoring.verdict import score_claim


def network(*rises: bool) -> pd.DataFrame:
    """Return one network at learning rates 1, 2, 4, ... times 1 / lambda_0, in reverse order."""
    rows = [{"x": 2.0**i, "rises": float(value)} for i, value in enumerate(rises)]
    return pd.DataFrame(rows[::-1])


def test_an_onset_is_the_geometric_mean_of_two_rates() -> None:
    assert onset(network(False, False, True, True), "rises") == pytest.approx(math.sqrt(2 * 4))
    assert onset(network(False, True, False, True), "rises") == pytest.approx(math.sqrt(1 * 2))


def test_an_onset_outside_the_grid_is_not_defined() -> None:
    assert math.isnan(onset(network(True, True), "rises"))
    assert math.isnan(onset(network(False, False), "rises"))


@pytest.mark.parametrize(
    ("multiple", "verdict"),
    [(1.4, "contradicted"), (2.0, "reproduced"), (2.5, "contradicted"), (2.8, "contradicted")],
)
def test_only_an_onset_at_2_over_lambda_0_is_reproduced(multiple: float, verdict: str) -> None:
    scoring = registered_scoring("lewkowycz2020")
    cells = rises_from(multiple)(lewkowycz2020())
    claim = scoring.claims[scoring.main]
    assert score_claim(scoring.main, claim, STUDY.effects, cells, 8).verdict == verdict


def test_one_network_that_deviates_is_enough() -> None:
    cells = lewkowycz2020()
    rises = rises_from(3.5)(cells)["rises"]
    mixed = cells.assign(rises=cells["rises"].mask(cells["network"] == "relu", rises))
    assert STUDY.effects["largest_onset_deviation"](mixed).min() > 0.5
    assert STUDY.effects["tanh_onset_deviation"](mixed).abs().max() < 0.3
