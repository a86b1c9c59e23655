"""Tests of the sentences on a comparison."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from simulated_trials import PEAKED, simulate_trials

from analysis.compare.comparison import compare_trials
from analysis.compare.sentences import group_sentences, missing_sentences, overall_sentences
from analysis.compare.spec import ComparisonSpec

ACCURACY = ComparisonSpec()


def make_trials(seed: int = 0, **options: float) -> pd.DataFrame:
    return simulate_trials(
        np.random.default_rng(seed), surface=PEAKED, **{"strategies": 3, **options}
    )


def unfinished(planned: pd.DataFrame, selected: pd.Series) -> pd.DataFrame:
    """Remove the result of the selected trials."""
    planned.loc[selected, ["score", "loss"]] = np.nan
    planned.loc[selected, "done"] = False
    return planned


def sentences(planned: pd.DataFrame, spec: ComparisonSpec = ACCURACY) -> str:
    return " ".join(group_sentences(compare_trials(planned, spec).groups[0], spec))


def test_the_first_strategy_may_be_worse_on_common_seeds() -> None:
    """Seeds 3 and 4 have high scores, and s1 does not have them."""
    planned = make_trials(strategies=2, sd=0.001)
    easy = planned["seed"].isin(["3", "4"])
    planned.loc[easy, "score"] += 0.15
    planned.loc[planned["strategy"] == "s1", "score"] += 0.04
    text = sentences(unfinished(planned, easy & (planned["strategy"] == "s1")))
    assert text.startswith("s0 has the highest mean")
    assert "It is significantly worse, on the seeds that both have, than s1 (by 0.04" in text
    assert "better than" not in text


def test_strategies_without_common_seeds_are_not_tested() -> None:
    planned = make_trials(strategies=2, seeds=6)
    late = planned["seed"].isin(["3", "4", "5"])
    planned = planned[late == (planned["strategy"] == "s1")]
    text = sentences(planned)
    assert "It has too few seeds in common with s" in text
    assert "significant" not in text


def test_equal_strategies_share_the_first_place() -> None:
    planned = make_trials(settings=2).assign(score=0.1, loss=np.nan, diverged=True)
    text = sentences(planned)
    assert "s0, s1 and s2 share the highest mean test accuracy, 0.100, over 5 seeds" in text
    assert "has the highest" not in text
    (overall,) = overall_sentences(compare_trials(planned, ACCURACY))
    assert overall.startswith(
        "Over 2 settings, s0, s1 and s2 share the best average rank, 2.00 of 3 "
        "(Friedman test, p = 1.000;"
    )


def test_a_single_ranked_strategy_is_not_compared() -> None:
    planned = make_trials()
    text = sentences(unfinished(planned, (planned["strategy"] != "s1") & (planned["seed"] > "1")))
    assert text.startswith("Only s1 is ranked: mean test accuracy 0.")
    assert "s0 is not ranked: 2 seeds with a score, 3 needed (15 cells without a result)." in text


def test_a_mean_over_some_seeds_is_stated() -> None:
    planned = make_trials()
    lost = (planned["strategy"] == "s0") & (planned["seed"] == "0")
    planned.loc[lost, ["score", "loss"]] = np.nan
    planned.loc[lost, "diverged"] = True
    planned.loc[(planned["strategy"] == "s0") & ~lost, "score"] /= 2
    spec = ComparisonSpec(metric="test_loss")
    assert "s0 has the lowest mean test loss" in sentences(planned, spec)
    assert "over 4 of 5 seeds" in sentences(planned, spec)


def test_cells_without_a_result_are_counted() -> None:
    planned = make_trials()
    text = sentences(unfinished(planned, (planned["strategy"] == "s1") & (planned["tuned"] > 0.05)))
    assert "Cells not run or failed: s1 15 of 25. They may change the ranking." in text
    assert "Cells not run" not in sentences(make_trials())


def test_unequal_grids_are_stated() -> None:
    planned = make_trials()
    few = (planned["strategy"] == "s1") & (planned["tuned"] > 0.05)
    text = sentences(planned[~few])
    assert "The strategies were tried at different values of optim.lr" in text
    assert "s1 2" in text
    assert "tried at different values" not in sentences(make_trials())


def test_a_strategy_without_some_setting_is_not_ranked() -> None:
    planned = make_trials(settings=2)
    absent = (planned["strategy"] == "s2") & (planned["setting"] == "t1")
    text = sentences(planned[~absent])
    assert "s2 is not ranked: no score (planned in 1 of 2 settings; use --within" in text


def test_grid_edges_are_stated_with_the_number_of_settings() -> None:
    planned = make_trials(settings=2, sd=0.001)
    edge = (planned["setting"] == "t1") & (planned["tuned"] == planned["tuned"].max())
    planned.loc[edge & (planned["strategy"] == "s0"), "score"] = 0.95
    assert "tried for s0 (in 1 of 2 settings); the ranking" in sentences(planned)


def test_one_diverged_run_of_many_is_not_rounded_to_zero() -> None:
    planned = make_trials(seeds=60)
    planned.loc[planned.index[0], ["score", "loss", "diverged"]] = [0.1, np.nan, True]
    assert "Share of all runs that diverged: s0 <1%" in sentences(planned)


def test_groups_without_a_result_are_named() -> None:
    planned = make_trials(settings=2)
    planned["group"] = planned["setting"]
    comparison = compare_trials(unfinished(planned, planned["setting"] == "t1"), ACCURACY)
    assert [group.title for group in comparison.groups] == ["t0"]
    assert missing_sentences(comparison) == ["No cell has a result yet in t1."]
    assert missing_sentences(compare_trials(make_trials(), ACCURACY)) == []


@pytest.mark.parametrize(
    ("settings", "expected"), [(4, "too few settings"), (6, ": significantly better than s1.")]
)
def test_two_strategies_need_six_settings(settings: int, expected: str) -> None:
    planned = make_trials(strategies=2, settings=settings, planted=0.2)
    (text,) = overall_sentences(compare_trials(planned, ACCURACY))
    assert expected in text
    assert "sign test, 5%" in text
    assert "Nemenyi" not in text


def test_a_small_level_is_not_rounded() -> None:
    (text,) = overall_sentences(
        compare_trials(make_trials(settings=3), ComparisonSpec(level=0.001))
    )
    assert "Nemenyi test, 0.1%" in text


def test_ranks_over_settings_need_enough_seeds_of_all() -> None:
    planned = make_trials(settings=4)
    few_seeds = (planned["strategy"] == "s1") & (planned["seed"] > "0")
    unfinished(planned, few_seeds)
    assert compare_trials(planned, ACCURACY).overall is None
    assert compare_trials(planned, ComparisonSpec(few_seeds=True)).overall is not None


def test_rounding_errors_do_not_change_ranks() -> None:
    planned = make_trials(settings=2, strategies=2)
    planned["score"] = np.where(planned["strategy"] == "s0", 0.1 + 0.2, 0.3)
    comparison = compare_trials(planned, ACCURACY)
    assert comparison.overall is not None
    assert comparison.overall.ranks.average.tolist() == [1.5, 1.5]
