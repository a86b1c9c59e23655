"""What is said of a comparison, and what must not be."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from simulated_trials import PEAKED, simulate_trials

from analysis.compare.comparison import compare_trials
from analysis.compare.sentences import group_sentences, missing_sentences, overall_sentences
from analysis.compare.spec import ComparisonSpec

ACCURACY = ComparisonSpec()


def made(seed: int = 0, **law: float) -> pd.DataFrame:
    return simulate_trials(np.random.default_rng(seed), surface=PEAKED, **{"strategies": 3, **law})


def unfinished(planned: pd.DataFrame, which: pd.Series) -> pd.DataFrame:
    """Trials of which some have no result."""
    planned.loc[which, ["score", "loss"]] = np.nan
    planned.loc[which, "done"] = False
    return planned


def said(planned: pd.DataFrame, spec: ComparisonSpec = ACCURACY) -> str:
    return " ".join(group_sentences(compare_trials(planned, spec).groups[0], spec))


def test_who_stands_first_by_its_seeds_may_be_worse_on_common_ones() -> None:
    """Seeds 3 and 4 are easy, and s1 lacks them."""
    planned = made(strategies=2, sd=0.001)
    easy = planned["seed"].isin(["3", "4"])
    planned.loc[easy, "score"] += 0.15
    planned.loc[planned["strategy"] == "s1", "score"] += 0.04
    told = said(unfinished(planned, easy & (planned["strategy"] == "s1")))
    assert told.startswith("s0 has the highest mean")
    assert "It is, on the seeds that both have, worse than s1 (by 0.04" in told
    assert "It is better than" not in told


def test_strategies_without_common_seeds_are_not_tested() -> None:
    planned = made(strategies=2, seeds=6)
    late = planned["seed"].isin(["3", "4", "5"])
    planned = planned[late == (planned["strategy"] == "s1")]
    told = said(planned)
    assert "It has too few seeds in common with s" in told
    assert "told apart" not in told


def test_equals_share_the_first_place() -> None:
    planned = made(settings=2).assign(score=0.1, loss=np.nan, diverged=True)
    told = said(planned)
    assert "s0, s1 and s2 share the highest mean test accuracy, 0.100, over 5 seeds" in told
    assert "has the highest" not in told
    (overall,) = overall_sentences(compare_trials(planned, ACCURACY))
    assert overall.startswith(
        "Over 2 settings s0, s1 and s2 share the best average rank, 2.00 of 3 (Friedman p = 1.000;"
    )


def test_the_only_one_that_is_ranked_beats_nobody() -> None:
    planned = made()
    told = said(unfinished(planned, (planned["strategy"] != "s1") & (planned["seed"] > "1")))
    assert told.startswith("Only s1 is ranked: mean test accuracy 0.")
    assert "s0 is not ranked: 2 of 3 seeds needed (15 cells without a result)." in told


def test_a_mean_over_the_seeds_that_survived_says_so() -> None:
    planned = made()
    lost = (planned["strategy"] == "s0") & (planned["seed"] == "0")
    planned.loc[lost, ["score", "loss"]] = np.nan
    planned.loc[lost, "diverged"] = True
    planned.loc[(planned["strategy"] == "s0") & ~lost, "score"] /= 2
    spec = ComparisonSpec(metric="test_loss")
    assert "s0 has the lowest mean test loss" in said(planned, spec)
    assert "over 4 of 5 seeds" in said(planned, spec)


def test_cells_without_a_result_are_told() -> None:
    planned = made()
    told = said(unfinished(planned, (planned["strategy"] == "s1") & (planned["tuned"] > 0.05)))
    assert "Not run or failed, of all cells: s1 15 of 25. This may change with them." in told
    assert "Not run" not in said(made())


def test_unequal_numbers_of_tries_are_told() -> None:
    planned = made()
    few = (planned["strategy"] == "s1") & (planned["tuned"] > 0.05)
    told = said(planned[~few])
    assert "Not all were tried at the same values of optim.lr" in told
    assert "s1 2" in told
    assert "Not all were tried" not in said(made())


def test_a_strategy_that_lacks_a_setting_says_why_it_is_not_ranked() -> None:
    planned = made(settings=2)
    lacks = (planned["strategy"] == "s2") & (planned["setting"] == "t1")
    told = said(planned[~lacks])
    assert "s2 is not ranked: no score (planned in 1 of 2 settings: --within" in told


def test_edges_are_told_with_the_number_of_settings() -> None:
    planned = made(settings=2, sd=0.001)
    edge = (planned["setting"] == "t1") & (planned["tuned"] == planned["tuned"].max())
    planned.loc[edge & (planned["strategy"] == "s0"), "score"] = 0.95
    assert "tried for s0 (in 1 of 2 settings): a wider" in said(planned)


def test_one_run_that_diverged_of_many_is_not_told_as_none() -> None:
    planned = made(seeds=60)
    planned.loc[planned.index[0], ["score", "loss", "diverged"]] = [0.1, np.nan, True]
    assert "Diverged, of all runs: s0 <1%" in said(planned)


def test_groups_without_a_result_are_named() -> None:
    planned = made(settings=2)
    planned["group"] = planned["setting"]
    found = compare_trials(unfinished(planned, planned["setting"] == "t1"), ACCURACY)
    assert [group.title for group in found.groups] == ["t0"]
    assert missing_sentences(found) == ["No cell has a result yet: t1."]
    assert missing_sentences(compare_trials(made(), ACCURACY)) == []


@pytest.mark.parametrize(("settings", "words"), [(4, "too few settings"), (6, ": better than s1.")])
def test_two_strategies_need_six_settings(settings: int, words: str) -> None:
    planned = made(strategies=2, settings=settings, planted=0.2)
    (told,) = overall_sentences(compare_trials(planned, ACCURACY))
    assert words in told
    assert "sign test, 5%" in told
    assert "Nemenyi" not in told


def test_a_small_level_is_told_as_it_is() -> None:
    (told,) = overall_sentences(compare_trials(made(settings=3), ComparisonSpec(level=0.001)))
    assert "Nemenyi, 0.1%" in told


def test_over_settings_nobody_is_ranked_by_fewer_seeds_than_within() -> None:
    planned = made(settings=4)
    short = (planned["strategy"] == "s1") & (planned["seed"] > "0")
    unfinished(planned, short)
    assert compare_trials(planned, ACCURACY).overall is None
    assert compare_trials(planned, ComparisonSpec(few_seeds=True)).overall is not None


def test_rounding_makes_no_rank() -> None:
    planned = made(settings=2, strategies=2)
    planned["score"] = np.where(planned["strategy"] == "s0", 0.1 + 0.2, 0.3)
    found = compare_trials(planned, ACCURACY)
    assert found.overall is not None
    assert found.overall.ranks.average.tolist() == [1.5, 1.5]
