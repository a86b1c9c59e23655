"""A sweep's strategies compared: the whole of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from analysis.compare.overall import Overall, overall
from analysis.compare.pairs import pairs
from analysis.compare.spec import ENOUGH, Question
from analysis.compare.standings import standings
from analysis.compare.trials import trials
from analysis.compare.tuning import by_setting, by_value, scores
from analysis.load import Results
from fanin.errors import FaninError
from fanin.statistics.holm import holm

PAIRS = ["a", "b", "difference", "low", "high", "p", "pairs", "improvement"]


@dataclass(frozen=True)
class Group:
    """Settings that are compared together.

    Attributes
    ----------
    title
        Their label by the axes of `within`.
    settings
        Their labels.
    standings
        A row per strategy (`analysis.compare.standings.standings`).
    pairs
        A row per pair of ranked strategies (`analysis.compare.pairs.pairs`), and `p_holm`,
        corrected over all groups.
    """

    title: str
    settings: list[str]
    standings: pd.DataFrame
    pairs: pd.DataFrame


@dataclass(frozen=True)
class Compared:
    """Every group, and all settings together.

    Attributes
    ----------
    question
        What was asked.
    groups
        In the order of the plan.
    scores
        One a seed (`analysis.compare.tuning.scores`).
    values
        Mean scores at every tuned value (`analysis.compare.tuning.by_value`).
    overall
        Ranks over all settings; None where there are fewer than two.
    unended
        Titles of groups of which no cell has a result yet.
    """

    question: Question
    groups: list[Group]
    scores: pd.DataFrame
    values: pd.DataFrame
    overall: Overall | None
    unended: list[str] = field(default_factory=list)

    @property
    def order(self) -> list[str]:
        """All strategies, by their average rank, or as they stand in the first group."""
        ranked = self.overall.strategies if self.overall else []
        return list(
            dict.fromkeys([*ranked, *(n for g in self.groups for n in g.standings["strategy"])])
        )


def compare(results: Results, question: Question | None = None) -> Compared:
    """Compare a sweep's strategies, from its tables alone.

    Parameters
    ----------
    results
        The sweep; one that still runs will do.
    question
        What to compare; None: init schemes by their test accuracy.

    Raises
    ------
    FaninError
        Such an axis or metric isn't there (the nearest are listed), there is only one strategy, or
        there are fewer than three seeds and `few_seeds` doesn't say to rank all the same.
    """
    question = question or Question()
    return compare_trials(trials(results, question), question)


def compare_trials(planned: pd.DataFrame, question: Question) -> Compared:
    """Compare trials (`analysis.compare.trials.trials`), of which some have ended."""
    metric = question.measured
    _check(planned, question)
    groups, all_scores, all_values = [], [], []
    unended: list[str] = []
    for title, mine in planned.groupby("group", sort=False):
        tuned = by_setting(mine, metric)
        scored = scores(tuned)
        if scored.empty:
            unended.append(str(title))
            continue
        table = standings(scored, tuned, mine, metric, question.enough)
        found = pairs(scored, list(table.loc[table["ranked"], "strategy"]), metric)
        names = list(dict.fromkeys(mine["setting"]))
        groups.append(Group(str(title), names, table, pd.DataFrame(found, columns=PAIRS)))
        all_scores.append(scored)
        all_values.append(by_value(tuned))
    _correct(groups)
    joined = pd.concat(all_scores, ignore_index=True)
    values = pd.concat(all_values, ignore_index=True)
    ranks = overall(joined, metric, question.level, question.enough)
    return Compared(question, groups, joined, values, ranks, unended)


def _correct(groups: list[Group]) -> None:
    """Holm's correction over the pairs of all groups: they are read together."""
    together = pd.concat([group.pairs["p"] for group in groups], ignore_index=True)
    adjusted = holm(together.astype(float))
    first = 0
    for group in groups:
        last = first + len(group.pairs)
        group.pairs["p_holm"] = adjusted[first:last]
        first = last


def _check(planned: pd.DataFrame, question: Question) -> None:
    strategies = planned["strategy"].nunique()
    if strategies < 2:
        raise FaninError(f"{question.by}: the sweep has only one ({planned['strategy'].iloc[0]})")
    seeds = planned.groupby(["setting", "strategy"], sort=False)["seed"].nunique()
    if seeds.max() < question.enough:
        raise FaninError(
            f"{seeds.max()} seed{'s' if seeds.max() > 1 else ''} a setting: too few to rank "
            f"strategies by. Run {ENOUGH} or more ('seed=range(5)' beside the sweep's command); or "
            "--few-seeds, to see a ranking that luck may have made"
        )
