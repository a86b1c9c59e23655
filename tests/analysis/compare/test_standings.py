"""Tests of the standings of a group: means and ranking."""

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


def make_trials(**options: int) -> pd.DataFrame:
    return simulate_trials(np.random.default_rng(0), surface=PEAKED, strategies=3, **options)


def row(compared: InitComparison, strategy: str) -> pd.Series:
    return compared.groups[0].standings.set_index("strategy").loc[strategy]


def test_the_mean_is_over_seeds_of_the_mean_over_settings() -> None:
    planned = make_trials(settings=2)
    comparison = compare_trials(planned, ComparisonSpec())
    best = planned.loc[planned.groupby(["strategy", "setting", "seed"])["loss"].idxmin()]
    rows = best[best["strategy"] == "s1"]
    by_seed = rows.groupby("seed")["score"].mean()
    assert row(comparison, "s1")["mean"] == pytest.approx(by_seed.mean())
    half = 2.776445 * by_seed.std(ddof=1) / np.sqrt(5)  # t(4) at 97.5 %
    assert row(comparison, "s1")["high"] - by_seed.mean() == pytest.approx(half, rel=1e-6)


def test_a_seed_without_some_setting_is_not_averaged() -> None:
    planned = make_trials(settings=2)
    missing = (
        (planned["strategy"] == "s1") & (planned["setting"] == "t1") & (planned["seed"] == "2")
    )
    planned.loc[missing, ["score", "loss"]] = np.nan
    planned.loc[missing, "done"] = False
    comparison = compare_trials(planned, ComparisonSpec())
    assert (row(comparison, "s1")["seeds"], row(comparison, "s1")["missing"]) == (4, 5)
    pairs = comparison.groups[0].pairs
    affected = (pairs["a"] == "s1") | (pairs["b"] == "s1")
    assert set(pairs.loc[affected, "pairs"]) == {4}
    assert set(pairs.loc[~affected, "pairs"]) == {5}
    assert (
        standings_table(comparison.groups[0], comparison.spec)["missing"].tolist().count("5") == 1
    )


def test_diverged_losses_are_counted_and_rank_last() -> None:
    planned = make_trials(settings=2)
    planned["score"] = 1 - planned["score"]
    diverged = (planned["strategy"] == "s0") & (planned["setting"] == "t0")
    planned.loc[diverged, ["score", "loss"]] = np.nan
    planned.loc[diverged, "diverged"] = True
    spec = ComparisonSpec(metric="test_loss")
    comparison = compare_trials(planned, spec)
    assert not row(comparison, "s0")["ranked"]
    assert row(comparison, "s0")["diverged"] == 5
    assert np.isnan(row(comparison, "s0")["mean"])
    assert comparison.groups[0].standings["strategy"].iloc[-1] == "s0"
    assert len(comparison.groups[0].pairs) == 1
    text = " ".join(group_sentences(comparison.groups[0], spec))
    assert "s0 is not ranked: no score (5 of 10 runs diverged)" in text
    assert "Share of all runs that diverged: s0 50%" in text
    assert comparison.overall is not None
    assert comparison.overall.ranks.settings == 2


def test_fewer_than_three_seeds_require_the_option_few_seeds() -> None:
    planned = make_trials(seeds=2)
    with pytest.raises(FaninError, match="2 seeds per setting: too few") as error:
        compare_trials(planned, ComparisonSpec())
    assert "--few-seeds" in str(error.value)
    comparison = compare_trials(planned, ComparisonSpec(few_seeds=True))
    assert comparison.groups[0].standings["ranked"].all()


def test_a_single_strategy_is_refused() -> None:
    with pytest.raises(FaninError, match=r"init: the sweep has only one value \(s0\)"):
        compare_trials(simulate_trials(np.random.default_rng(0), strategies=1), ComparisonSpec())


def test_sentences_state_significant_differences() -> None:
    planned = make_trials(settings=3)
    planned.loc[planned["strategy"] == "s2", "score"] -= 0.3
    comparison = compare_trials(planned, ComparisonSpec())
    first, better, similar = group_sentences(comparison.groups[0], comparison.spec)[:3]
    name = comparison.groups[0].standings["strategy"].iloc[0]
    other = ({"s0", "s1"} - {name}).pop()
    assert first.startswith(f"{name} has the highest mean test accuracy, 0.8")
    assert first.endswith("over 5 seeds and 3 settings.")
    assert better.startswith("It is significantly better than s2 (by 0.3")
    assert similar.startswith(f"It is not significantly different from {other} (by 0.0")
    assert "Over 3 settings," in overall_sentences(comparison)[0]
    assert overall_sentences(compare_trials(make_trials(), ComparisonSpec())) == []  # one setting


def test_p_values_are_corrected_over_all_pairs_of_all_groups() -> None:
    planned = make_trials(settings=2)
    planned["group"] = planned["setting"]
    pairs = pd.concat([group.pairs for group in compare_trials(planned, ComparisonSpec()).groups])
    ascending = pairs.sort_values("p")
    factors = np.arange(6, 0, -1)  # Holm: the smallest of six times six, the next times five, ...
    expected = np.minimum(np.maximum.accumulate(ascending["p"] * factors), 1.0)
    assert ascending["p_holm"].tolist() == pytest.approx(expected.tolist())
    assert ascending["p_holm"].iloc[0] == pytest.approx(6 * ascending["p"].min())
