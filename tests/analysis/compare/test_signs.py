"""Which way is better, of accuracies and of losses; and where each number of the table is from."""

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


def accuracies(**law: float) -> pd.DataFrame:
    """Of s0 0.3 more than of s1 and s2."""
    rng = np.random.default_rng(0)
    return simulate_trials(rng, surface=PEAKED, **{"strategies": 3, "planted": 0.3, "settings": 2, **law})


def losses(**law: float) -> pd.DataFrame:
    """Of s0 0.3 less than of s1 and s2."""
    return accuracies(**law).assign(score=lambda frame: 2 - frame["score"])


ACCURACY, LOSS = ComparisonSpec(), ComparisonSpec(metric="test_loss")
BOTH = pytest.mark.parametrize(
    "found",
    [compare_trials(accuracies(), ACCURACY), compare_trials(losses(), LOSS)],
    ids=["accuracy", "loss"],
)


@BOTH
def test_the_better_one_stands_first_everywhere(found: InitComparison) -> None:
    pairs = found.groups[0].pairs
    assert found.groups[0].standings["strategy"].iloc[0] == "s0"
    assert (pairs.loc[pairs["a"] == "s0", "improvement"] == 1.0).all()
    assert found.overall is not None
    assert found.overall.strategies[0] == "s0"
    assert found.overall.ranks.average[0] == 1.0


@BOTH
def test_the_better_one_is_told_to_be_better(found: InitComparison) -> None:
    told = " ".join(group_sentences(found.groups[0], found.spec))
    assert "It is better than s1 (by 0.2" in told
    assert "worse" not in told


@BOTH
def test_the_table_shows_the_numbers_of_the_pair(found: InitComparison) -> None:
    table = standings_table(found.groups[0], found.spec).set_index("init")
    pair = found.groups[0].pairs.set_index(["a", "b"]).loc[("s0", "s1")]
    row = table.loc["s1"]
    assert float(row["first minus it (95 %)"].split()[0]) == pytest.approx(
        pair["difference"], rel=0.01
    )
    assert (pair["difference"] > 0) == found.spec.metric_info.larger_is_better
    assert row["P(first beats it)"] == "1.00"


@BOTH
def test_light_is_better_in_the_map(found: InitComparison) -> None:
    (image,) = tuned_values_figure(found).axes[0].images
    means = np.asarray(image.get_array())
    best = means.max() if found.spec.metric_info.larger_is_better else means.min()
    worst = means.min() if found.spec.metric_info.larger_is_better else means.max()
    lightness = image.cmap(image.norm(np.array([best, worst])))[:, :3].sum(axis=1)
    assert lightness[0] > lightness[1]


def test_a_run_without_a_score_loses_and_ranks_last() -> None:
    planned = losses()
    gone = (planned["strategy"] == "s0") & (planned["seed"] == "0")
    planned.loc[gone, ["score", "loss"]] = np.nan
    planned.loc[gone, "diverged"] = True
    found = compare_trials(planned, LOSS)
    pairs = found.groups[0].pairs.set_index(["a", "b"])["improvement"]
    assert pairs["s0", "s1"] == pytest.approx(0.8)  # four seeds of five
    assert found.overall is not None
    assert found.overall.strategies[-1] == "s0"
    assert found.overall.ranks.average[-1] == 3.0


def test_the_table_and_sentences_have_the_corrected_p_value() -> None:
    found = compare_trials(accuracies(planted=0.03, sd=0.02, strategies=6), ACCURACY)
    pairs = found.groups[0].pairs
    mine = pairs[pairs["a"] == found.groups[0].standings["strategy"].iloc[0]]
    between = mine[(mine["p"] <= 0.05) & (mine["p_holm"] > 0.05)]
    assert len(between)
    told = " ".join(group_sentences(found.groups[0], ACCURACY))
    table = standings_table(found.groups[0], ACCURACY).set_index("init")["p (Holm)"]
    apart = told[told.index("It is not told apart from") :]
    for row in between.to_dict("records"):
        assert table[row["b"]] == f"{row['p_holm']:.3f}"
        assert f"{row['b']} (by {row['difference']:.3f}, p = {row['p_holm']:.3f})" in apart


def test_the_level_is_the_one_that_was_asked_for() -> None:
    planned = accuracies()
    p = compare_trials(planned, ACCURACY).groups[0].pairs
    strict = ComparisonSpec(level=float(p.loc[p["a"] == "s0", "p_holm"].min()) / 2)
    assert "is better than" in " ".join(
        group_sentences(compare_trials(planned, ACCURACY).groups[0], ACCURACY)
    )
    assert "is better than" not in " ".join(
        group_sentences(compare_trials(planned, strict).groups[0], strict)
    )
    many = accuracies(settings=4)
    (told,), (strictly,) = (
        overall_sentences(compare_trials(many, ComparisonSpec(level=level)))
        for level in (0.3, 0.0001)
    )
    assert "better than s" in told
    assert "better than s" not in strictly


def test_diverged_at_the_chosen_value_and_at_every_one() -> None:
    planned = accuracies(settings=1)
    gone = (planned["strategy"] == "s1") & (planned["tuned"] == 10.0)
    planned.loc[gone, ["score", "loss", "diverged"]] = [0.1, np.nan, True]
    table = standings_table(compare_trials(planned, ACCURACY).groups[0], ACCURACY)
    row = table.set_index("init").loc["s1"]
    assert (row["diverged"], row["diverged, every lr"]) == ("0", "5 of 25")


def test_the_iqm_is_of_runs() -> None:
    planned = accuracies(settings=1)
    planned.loc[(planned["strategy"] == "s1") & (planned["seed"] == "0"), "score"] = 0.0
    standing = compare_trials(planned, ACCURACY).groups[0].standings.set_index("strategy")
    assert standing.loc["s1", "iqm"] > standing.loc["s1", "mean"] + 0.1
