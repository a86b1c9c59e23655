"""Tests of verdicts and null models on a comparison of two inits."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.scoring.claims import Claim, Scoring
from analysis.scoring.effects import partial_rank_correlation, per_seed, rank_correlation, tuned
from analysis.scoring.null_models import N_SHUFFLES, null_cells, score_null_models
from analysis.scoring.verdict import decide, effect_interval, score_claims, seeds_needed
from fanin.errors import FaninError
from fanin.statistics.interval import Interval

NULL_MODELS = ("constant", "shuffled", "trend in lr")
DIFFERENCE = Claim(
    "He is better.", "our choice", "difference", "above", 0.2, "our choice", NULL_MODELS, main=True
)
ANY_LOSS = Claim("He trains.", "our choice", "loss", "below", 0.5, "our choice", NULL_MODELS)
SCORING = Scoring(4, "", {"difference": DIFFERENCE, "loss": ANY_LOSS}, {})


def _difference(cells: pd.DataFrame) -> float:
    by_init = cells.groupby("init")["loss"].mean()
    return float(by_init["xavier"] - by_init["he"])


def _loss(cells: pd.DataFrame) -> float:
    return float(cells.loc[cells["init"] == "he", "loss"].mean())


EFFECTS = {"difference": per_seed(_difference), "loss": per_seed(_loss)}


def cells(n_seeds: int = 4) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        {"seed": seed, "init": init, "lr": lr, "loss": mean + 0.02 * rng.standard_normal()}
        for seed in range(n_seeds)
        for init, mean in (("he", 0.2), ("xavier", 0.9))
        for lr in (0.01, 0.1, 1.0)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("low", "high", "direction", "verdict"),
    [
        (0.3, 0.5, "above", "reproduced"),
        (0.1, 0.5, "above", "undecided"),
        (-0.5, 0.1, "above", "contradicted"),
        (-0.5, 0.1, "below", "reproduced"),
        (0.3, 0.5, "below", "contradicted"),
        (-0.1, 0.1, "within", "reproduced"),
        (-0.3, 0.1, "within", "undecided"),
        (0.3, 0.5, "within", "contradicted"),
        (-0.5, -0.3, "within", "contradicted"),
        (np.nan, np.nan, "above", "undecided"),
        (0.2, 0.2, "above", "contradicted"),
    ],
)
def test_the_verdict_compares_the_interval_with_the_smallest_effect(
    low: float, high: float, direction: str, verdict: str
) -> None:
    interval = Interval((low + high) / 2, low, high)
    assert decide(interval, direction, 0.2) == verdict  # type: ignore[arg-type]


def test_a_clear_difference_is_reproduced() -> None:
    difference, loss = score_claims(SCORING, EFFECTS, cells())
    assert (difference.verdict, loss.verdict) == ("reproduced", "reproduced")
    assert difference.interval.low < 0.7 < difference.interval.high


def test_too_few_seeds_are_undecided() -> None:
    assert {claim.verdict for claim in score_claims(SCORING, EFFECTS, cells(3))} == {"undecided"}


def test_a_seed_without_the_effect_makes_it_undecided() -> None:
    incomplete = cells().query("seed != 2 or init != 'he'").reset_index(drop=True)
    effects = EFFECTS | {"difference": per_seed(lambda rows: np.nan)}
    assert score_claims(SCORING, effects, incomplete)[0].verdict == "undecided"


def test_a_contrast_refuses_all_null_models_but_a_level_does_not() -> None:
    results = score_null_models(SCORING, EFFECTS, ["loss"], cells())
    refused = pd.DataFrame([(r.claim, r.null_model, r.is_refused) for r in results])
    by_claim = refused.groupby(0)[2].all()
    assert by_claim["difference"]
    assert not by_claim["loss"]  # a constant low loss satisfies it
    assert [r.n for r in results] == [3, N_SHUFFLES, 2] * 2


def test_null_models_keep_the_design_and_the_outcomes_of_a_seed() -> None:
    original = cells()
    for model in NULL_MODELS:
        for wrong in null_cells(model, ["loss"], original, {}, 3):
            assert wrong.drop(columns="loss").equals(original.drop(columns="loss"))
            assert set(wrong["loss"]) <= set(original["loss"])
            for seed, rows in original.groupby("seed") if model == "shuffled" else ():
                assert sorted(wrong.loc[wrong["seed"] == seed, "loss"]) == sorted(rows["loss"])


def test_unknown_names_are_refused() -> None:
    claim = Claim("x", "our choice", "diference", "above", 0, "our choice", ("trend in lrr",))
    with pytest.raises(FaninError, match="did you mean difference"):
        score_claims(Scoring(2, "", {"x": claim}, {}), EFFECTS, cells())
    claim = Claim("x", "our choice", "difference", "above", 0, "our choice", ("trend in lrr",))
    with pytest.raises(FaninError, match="did you mean lr"):
        score_null_models(Scoring(2, "", {"x": claim}, {}), EFFECTS, ["loss"], cells())


def test_a_study_has_null_models_of_its_own() -> None:
    def equal(table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(loss=table["lr"])

    claim = Claim("x", "our choice", "difference", "above", 0.2, "our choice", ("equal inits",))
    scoring = Scoring(4, "", {"x": claim}, {})
    (refused,) = score_null_models(scoring, EFFECTS, ["loss"], cells(), {"equal inits": equal})
    assert (refused.n, refused.n_accepted) == (1, 0)
    (accepted,) = score_null_models(scoring, EFFECTS, ["loss"], cells(), {"equal inits": cells_of})
    assert not accepted.is_refused
    with pytest.raises(FaninError, match="no null model equal inits"):
        score_null_models(scoring, EFFECTS, ["loss"], cells())


def cells_of(table: pd.DataFrame) -> pd.DataFrame:
    return table


@pytest.mark.parametrize(("n", "rank"), [(6, 1), (8, 1), (9, 2), (12, 3), (20, 6), (100, 40)])
def test_the_interval_of_the_median_has_order_statistics_as_ends(n: int, rank: int) -> None:
    # Ranks: Conover, Practical Nonparametric Statistics, table A3 (binomial, p = 0.5).
    interval = effect_interval(np.arange(1.0, n + 1), "median")
    assert interval == Interval((n + 1) / 2, rank, n + 1 - rank)


def test_five_values_have_no_interval_of_the_median() -> None:
    assert np.isnan(effect_interval(np.arange(5.0), "median").low)
    assert effect_interval(np.ones(6), "median") == Interval(1.0, 1.0, 1.0)


def test_tuning_does_not_use_the_seed_itself() -> None:
    table = pd.DataFrame(
        {
            "seed": [0, 0, 1, 1, 2, 2],
            "init": "he",
            "lr": [0.1, 1.0] * 3,
            "loss": [0.9, 0.0, 0.5, 0.6, 0.5, 0.6],
        }
    )
    assert tuned(table, ["init"], "lr", "loss")["he"].tolist() == [0.9, 0.6, 0.6]


def test_seeds_needed_for_90_percent_power() -> None:
    rng = np.random.default_rng(0)
    n = seeds_needed(sd=1.0, margin=1.2)
    lows = [effect_interval(rng.normal(1.2, 1.0, n), "t").low for _ in range(4000)]
    power = np.mean(np.array(lows) > 0)
    se = np.sqrt(0.9 * 0.1 / 4000)
    assert power > 0.9 - 4 * se
    lows = [effect_interval(rng.normal(1.2, 1.0, n - 1), "t").low for _ in range(4000)]
    assert np.mean(np.array(lows) > 0) < 0.9 + 4 * se


def test_rank_correlations() -> None:
    x, y = pd.Series([1.0, 2.0, 3.0, 4.0]), pd.Series([1.0, 4.0, 9.0, 16.0])
    assert rank_correlation(x, y) == pytest.approx(1.0)
    assert rank_correlation(x, pd.Series([1.0] * 4)) == 0.0
    assert partial_rank_correlation(x, y, given=x) == 0.0
    other = pd.Series([2.0, 1.0, 1.0, 2.0])
    assert partial_rank_correlation(x, y, given=other) == pytest.approx(1.0)
