"""Standings of a group: what is averaged, and who is ranked."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from simulated_trials import PEAKED, simulate_trials

from analysis.compare.comparison import InitComparison, compare_trials
from analysis.compare.sentences import group_sentences, overall_sentences
from analysis.compare.spec import ComparisonSpec
from analysis.compare.tables import standings_table
from fanin.errors import FaninError


def made(**law: int) -> pd.DataFrame:
    return simulate_trials(np.random.default_rng(0), surface=PEAKED, strategies=3, **law)


def row(compared: InitComparison, strategy: str) -> pd.Series:
    return compared.groups[0].standings.set_index("strategy").loc[strategy]


def test_the_mean_is_over_seeds_of_the_mean_over_settings() -> None:
    planned = made(settings=2)
    found = compare_trials(planned, ComparisonSpec())
    best = planned.loc[planned.groupby(["strategy", "setting", "seed"])["loss"].idxmin()]
    mine = best[best["strategy"] == "s1"]
    by_seed = mine.groupby("seed")["score"].mean()
    assert row(found, "s1")["mean"] == pytest.approx(by_seed.mean())
    half = 2.776445 * by_seed.std(ddof=1) / np.sqrt(5)  # t(4) at 97.5 %
    assert row(found, "s1")["high"] - by_seed.mean() == pytest.approx(half, rel=1e-6)


def test_a_seed_that_lacks_a_setting_is_not_averaged() -> None:
    planned = made(settings=2)
    out = (planned["strategy"] == "s1") & (planned["setting"] == "t1") & (planned["seed"] == "2")
    planned.loc[out, ["score", "loss"]] = np.nan
    planned.loc[out, "done"] = False
    found = compare_trials(planned, ComparisonSpec())
    assert (row(found, "s1")["seeds"], row(found, "s1")["missing"]) == (4, 5)
    pairs = found.groups[0].pairs
    touched = (pairs["a"] == "s1") | (pairs["b"] == "s1")
    assert set(pairs.loc[touched, "pairs"]) == {4}
    assert set(pairs.loc[~touched, "pairs"]) == {5}
    assert standings_table(found.groups[0], found.spec)["missing"].tolist().count("5") == 1


def test_losses_that_diverged_are_counted_and_make_the_last_rank() -> None:
    planned = made(settings=2)
    planned["score"] = 1 - planned["score"]
    lost = (planned["strategy"] == "s0") & (planned["setting"] == "t0")
    planned.loc[lost, ["score", "loss"]] = np.nan
    planned.loc[lost, "diverged"] = True
    spec = ComparisonSpec(metric="test_loss")
    found = compare_trials(planned, spec)
    assert not row(found, "s0")["ranked"]
    assert row(found, "s0")["diverged"] == 5
    assert np.isnan(row(found, "s0")["mean"])
    assert found.groups[0].standings["strategy"].iloc[-1] == "s0"
    assert len(found.groups[0].pairs) == 1
    said = " ".join(group_sentences(found.groups[0], spec))
    assert "s0 is not ranked: no score (5 of 10 runs diverged)" in said
    assert "Diverged, of all runs: s0 50%" in said
    assert found.overall is not None
    assert found.overall.ranks.settings == 2


def test_fewer_than_three_seeds_are_refused_unless_told_to() -> None:
    planned = made(seeds=2)
    with pytest.raises(FaninError, match="2 seeds a setting: too few") as told:
        compare_trials(planned, ComparisonSpec())
    assert "--few-seeds" in str(told.value)
    found = compare_trials(planned, ComparisonSpec(few_seeds=True))
    assert found.groups[0].standings["ranked"].all()


def test_one_strategy_is_nothing_to_compare() -> None:
    with pytest.raises(FaninError, match=r"init: the sweep has only one \(s0\)"):
        compare_trials(simulate_trials(np.random.default_rng(0), strategies=1), ComparisonSpec())


def test_sentences_say_who_is_surely_better_and_who_is_not_told_apart() -> None:
    planned = made(settings=3)
    planned.loc[planned["strategy"] == "s2", "score"] -= 0.3
    found = compare_trials(planned, ComparisonSpec())
    first, surely, apart = group_sentences(found.groups[0], found.spec)[:3]
    name = found.groups[0].standings["strategy"].iloc[0]
    other = ({"s0", "s1"} - {name}).pop()
    assert first.startswith(f"{name} has the highest mean test accuracy, 0.8")
    assert first.endswith("over 5 seeds and 3 settings.")
    assert surely.startswith("It is better than s2 (by 0.3")
    assert apart.startswith(f"It is not told apart from {other} (by 0.0")
    assert "Over 3 settings" in overall_sentences(found)[0]
    assert overall_sentences(compare_trials(made(), ComparisonSpec())) == []  # one setting


def test_p_values_are_corrected_over_all_pairs_of_all_groups() -> None:
    planned = made(settings=2)
    planned["group"] = planned["setting"]
    pairs = pd.concat([group.pairs for group in compare_trials(planned, ComparisonSpec()).groups])
    ascending = pairs.sort_values("p")
    factors = np.arange(6, 0, -1)  # Holm: the smallest of six times six, the next times five, ...
    by_hand = np.minimum(np.maximum.accumulate(ascending["p"] * factors), 1.0)
    assert ascending["p_holm"].tolist() == pytest.approx(by_hand.tolist())
    assert ascending["p_holm"].iloc[0] == pytest.approx(6 * ascending["p"].min())
