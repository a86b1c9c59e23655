"""Tests of the direction of metrics, and of the numbers in the table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from simulated_trials import PEAKED, simulate_trials

from analysis.compare.comparison import InitComparison, compare_trials
from analysis.compare.figures import tuned_values_figure
from analysis.compare.sentences import group_sentences, overall_sentences
from analysis.compare.spec import ComparisonSpec
from analysis.compare.tables import standings_table


def accuracies(**options: float) -> pd.DataFrame:
    """Simulate accuracies; s0 scores 0.3 more than s1 and s2."""
    rng = np.random.default_rng(0)
    return simulate_trials(
        rng, surface=PEAKED, **{"strategies": 3, "planted": 0.3, "settings": 2, **options}
    )


def losses(**options: float) -> pd.DataFrame:
    """Simulate losses; s0 scores 0.3 less than s1 and s2."""
    return accuracies(**options).assign(score=lambda frame: 2 - frame["score"])


ACCURACY, LOSS = ComparisonSpec(), ComparisonSpec(metric="test_loss")
BOTH_METRICS = pytest.mark.parametrize(
    "comparison",
    [compare_trials(accuracies(), ACCURACY), compare_trials(losses(), LOSS)],
    ids=["accuracy", "loss"],
)


@BOTH_METRICS
def test_the_better_strategy_is_first_everywhere(comparison: InitComparison) -> None:
    pairs = comparison.groups[0].pairs
    assert comparison.groups[0].standings["strategy"].iloc[0] == "s0"
    assert (pairs.loc[pairs["a"] == "s0", "improvement"] == 1.0).all()
    assert comparison.overall is not None
    assert comparison.overall.strategies[0] == "s0"
    assert comparison.overall.ranks.average[0] == 1.0


@BOTH_METRICS
def test_sentences_name_the_better_strategy(comparison: InitComparison) -> None:
    text = " ".join(group_sentences(comparison.groups[0], comparison.spec))
    assert "It is significantly better than s1 (by 0.2" in text
    assert "worse" not in text


@BOTH_METRICS
def test_the_table_contains_the_numbers_of_the_pair(comparison: InitComparison) -> None:
    table = standings_table(comparison.groups[0], comparison.spec).set_index("init")
    pair = comparison.groups[0].pairs.set_index(["a", "b"]).loc[("s0", "s1")]
    row = table.loc["s1"]
    assert float(row["first - this (95 %)"].split()[0]) == pytest.approx(
        pair["difference"], rel=0.01
    )
    assert (pair["difference"] > 0) == comparison.spec.metric_info.larger_is_better
    assert row["P(first beats this)"] == "1.00"


@BOTH_METRICS
def test_light_is_better_in_the_figure(comparison: InitComparison) -> None:
    (image,) = tuned_values_figure(comparison).axes[0].images
    means = np.asarray(image.get_array())
    best = means.max() if comparison.spec.metric_info.larger_is_better else means.min()
    worst = means.min() if comparison.spec.metric_info.larger_is_better else means.max()
    lightness = image.cmap(image.norm(np.array([best, worst])))[:, :3].sum(axis=1)
    assert lightness[0] > lightness[1]


def test_a_run_without_a_score_loses_and_ranks_last() -> None:
    planned = losses()
    lost = (planned["strategy"] == "s0") & (planned["seed"] == "0")
    planned.loc[lost, ["score", "loss"]] = np.nan
    planned.loc[lost, "diverged"] = True
    comparison = compare_trials(planned, LOSS)
    pairs = comparison.groups[0].pairs.set_index(["a", "b"])["improvement"]
    assert pairs["s0", "s1"] == pytest.approx(0.8)  # four seeds of five
    assert comparison.overall is not None
    assert comparison.overall.strategies[-1] == "s0"
    assert comparison.overall.ranks.average[-1] == 3.0


def test_the_table_and_sentences_have_the_corrected_p_value() -> None:
    comparison = compare_trials(accuracies(planted=0.03, sd=0.02, strategies=6), ACCURACY)
    pairs = comparison.groups[0].pairs
    with_first = pairs[pairs["a"] == comparison.groups[0].standings["strategy"].iloc[0]]
    between = with_first[(with_first["p"] <= 0.05) & (with_first["p_holm"] > 0.05)]
    assert len(between)
    text = " ".join(group_sentences(comparison.groups[0], ACCURACY))
    table = standings_table(comparison.groups[0], ACCURACY).set_index("init")["p (Holm)"]
    not_significant = text[text.index("It is not significantly different from") :]
    for row in between.to_dict("records"):
        assert table[row["b"]] == f"{row['p_holm']:.3f}"
        assert (
            f"{row['b']} (by {row['difference']:.3f}, p = {row['p_holm']:.3f})" in not_significant
        )


def test_the_level_is_used() -> None:
    planned = accuracies()
    p = compare_trials(planned, ACCURACY).groups[0].pairs
    strict = ComparisonSpec(level=float(p.loc[p["a"] == "s0", "p_holm"].min()) / 2)
    assert "is significantly better than" in " ".join(
        group_sentences(compare_trials(planned, ACCURACY).groups[0], ACCURACY)
    )
    assert "significantly better" not in " ".join(
        group_sentences(compare_trials(planned, strict).groups[0], strict)
    )
    many = accuracies(settings=4)
    (text,), (strict_text,) = (
        overall_sentences(compare_trials(many, ComparisonSpec(level=level)))
        for level in (0.3, 0.0001)
    )
    assert "better than s" in text
    assert "better than s" not in strict_text


def test_diverged_runs_are_counted_at_chosen_and_all_values() -> None:
    planned = accuracies(settings=1)
    lost = (planned["strategy"] == "s1") & (planned["tuned"] == 10.0)
    planned.loc[lost, ["score", "loss", "diverged"]] = [0.1, np.nan, True]
    table = standings_table(compare_trials(planned, ACCURACY).groups[0], ACCURACY)
    row = table.set_index("init").loc["s1"]
    assert (row["diverged"], row["diverged, every lr"]) == ("0", "5 of 25")


def test_the_iqm_is_over_runs() -> None:
    planned = accuracies(settings=1)
    planned.loc[(planned["strategy"] == "s1") & (planned["seed"] == "0"), "score"] = 0.0
    standing = compare_trials(planned, ACCURACY).groups[0].standings.set_index("strategy")
    assert standing.loc["s1", "iqm"] > standing.loc["s1", "mean"] + 0.1
