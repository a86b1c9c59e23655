"""Comparison of a sweep's strategies: standings, paired differences, ranks over all settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from analysis.compare.spec import MIN_SEEDS, ComparisonSpec, Metric
from analysis.compare.standings import compute_standings, scores_by_seed
from analysis.compare.trials import read_trials
from analysis.compare.tuning import chosen_scores, mean_by_value, tune_by_setting
from analysis.load import Results
from fanin.errors import FaninError
from fanin.statistics.holm import holm
from fanin.statistics.strategies import (
    Ranks,
    average_ranks,
    paired_difference,
    probability_of_improvement,
)

PAIR_COLUMNS = ["a", "b", "difference", "low", "high", "p", "pairs", "improvement"]


@dataclass(frozen=True)
class Group:
    """The comparison over one group of settings.

    Attributes
    ----------
    title
        Label of the group by the axes of `within`.
    settings
        Labels of its settings.
    standings
        One row per strategy (`compute_standings`).
    pairs
        One row per pair of ranked strategies (`compare_pairs`), with `p_holm`, the p-value
        corrected over the pairs of all groups.
    """

    title: str
    settings: list[str]
    standings: pd.DataFrame
    pairs: pd.DataFrame


@dataclass(frozen=True)
class InitComparison:
    """A comparison of strategies: every group, and all settings together.

    Attributes
    ----------
    spec
        Specification of the comparison.
    groups
        The groups in plan order.
    scores
        One score per seed (`analysis.compare.tuning.chosen_scores`).
    values
        Mean scores at every tuned value (`analysis.compare.tuning.mean_by_value`).
    overall
        Ranks over all settings; None for fewer than two settings.
    without_results
        Titles of groups without any result.
    """

    spec: ComparisonSpec
    groups: list[Group]
    scores: pd.DataFrame
    values: pd.DataFrame
    overall: OverallRanks | None
    without_results: list[str] = field(default_factory=list)

    @property
    def order(self) -> list[str]:
        """All strategies: first those with an average rank, then the others as they appear."""
        ranked = self.overall.strategies if self.overall else []
        return list(
            dict.fromkeys([*ranked, *(n for g in self.groups for n in g.standings["strategy"])])
        )


def compare_strategies(results: Results, spec: ComparisonSpec | None = None) -> InitComparison:
    """Compare the values of one axis of a sweep (strategies), by default its init schemes.

    Parameters
    ----------
    results
        Tables of the sweep, which may still be running.
    spec
        Axis, metric and options; by default, init schemes by test accuracy.

    Returns
    -------
    InitComparison
        Ranks, tests and tables.

    Raises
    ------
    FaninError
        The axis or metric does not exist (the message lists the nearest names), there is only one
        strategy, or there are fewer than three seeds and `spec.few_seeds` is False.

    Examples
    --------
    >>> from analysis import load
    >>> comparison = compare_strategies(load("my_sweep"))  # doctest: +SKIP
    >>> comparison.groups[0].standings  # doctest: +SKIP
    """
    spec = spec or ComparisonSpec()
    return compare_trials(read_trials(results, spec), spec)


def compare_trials(planned: pd.DataFrame, spec: ComparisonSpec) -> InitComparison:
    """Compare trials (`analysis.compare.trials.read_trials`)."""
    metric = spec.metric_info
    _check(planned, spec)
    groups, all_scores, all_values = [], [], []
    without_results: list[str] = []
    for title, group_trials in planned.groupby("group", sort=False):
        tuned = tune_by_setting(group_trials, metric)
        scored = chosen_scores(tuned)
        if scored.empty:
            without_results.append(str(title))
            continue
        table = compute_standings(scored, tuned, group_trials, metric, spec.min_seeds)
        pairs = compare_pairs(scored, list(table.loc[table["ranked"], "strategy"]), metric)
        names = list(dict.fromkeys(group_trials["setting"]))
        groups.append(Group(str(title), names, table, pd.DataFrame(pairs, columns=PAIR_COLUMNS)))
        all_scores.append(scored)
        all_values.append(mean_by_value(tuned))
    _add_holm(groups)
    joined = pd.concat(all_scores, ignore_index=True)
    values = pd.concat(all_values, ignore_index=True)
    ranks = rank_overall(joined, metric, spec.level, spec.min_seeds)
    return InitComparison(spec, groups, joined, values, ranks, without_results)


def _add_holm(groups: list[Group]) -> None:
    """Add `p_holm`, corrected over the pairs of all groups because readers see all of them."""
    p_values = pd.concat([group.pairs["p"] for group in groups], ignore_index=True)
    adjusted = holm(p_values.astype(float))
    first = 0
    for group in groups:
        last = first + len(group.pairs)
        group.pairs["p_holm"] = adjusted[first:last]
        first = last


def _check(planned: pd.DataFrame, spec: ComparisonSpec) -> None:
    strategies = planned["strategy"].nunique()
    if strategies < 2:
        only = planned["strategy"].iloc[0]
        raise FaninError(f"{spec.by}: the sweep has only one value ({only}); nothing to compare")
    seeds = planned.groupby(["setting", "strategy"], sort=False)["seed"].nunique()
    if seeds.max() < spec.min_seeds:
        raise FaninError(
            f"{seeds.max()} seed{'s' if seeds.max() > 1 else ''} per setting: too few to rank "
            f"strategies. Run {MIN_SEEDS} or more (add 'seed=range(5)' to the sweep's command), or "
            "add --few-seeds to rank anyway; the ranking may be due to chance"
        )


def compare_pairs(
    scores: pd.DataFrame, ranked: Sequence[str], metric: Metric
) -> list[dict[str, Any]]:
    """Compare each pair of ranked strategies of one group on the seeds that both have.

    Returns
    -------
    list of dict
        `a` (the one ranked higher), `b`, `difference` (mean of a - b) with its 95 % confidence
        interval `low`, `high`, `p` (paired t-test), `pairs` (number of seeds), and `improvement`:
        the probability that a run of `a` beats a run of `b` in the same setting. A run without a
        score loses to every run with one.
    """
    seeds = scores_by_seed(scores)
    settings = list(dict.fromkeys(scores["setting"]))
    merits = {name: _merits(scores, name, settings, metric) for name in ranked}
    rows = []
    for a, b in combinations(ranked, 2):
        test = paired_difference(seeds[a].to_numpy(float), seeds[b].to_numpy(float))
        rows.append(
            {
                "a": a,
                "b": b,
                "difference": test.difference.value,
                "low": test.difference.low,
                "high": test.difference.high,
                "p": test.p,
                "pairs": test.pairs,
                "improvement": probability_of_improvement(merits[a], merits[b]),
            }
        )
    return rows


def _merits(
    scores: pd.DataFrame, name: str, settings: Sequence[str], metric: Metric
) -> list[np.ndarray]:
    rows = scores[scores["strategy"] == name]
    merit = (metric.sign * rows["score"]).fillna(-np.inf)
    return [merit[rows["setting"] == setting].to_numpy(float) for setting in settings]


@dataclass(frozen=True)
class OverallRanks:
    """Average ranks by strategy, best first.

    Attributes
    ----------
    strategies
        Strategies in the order of their average rank.
    ranks
        The ranks in the same order.
    """

    strategies: list[str]
    ranks: Ranks


def rank_overall(
    scores: pd.DataFrame, metric: Metric, level: float, min_seeds: int
) -> OverallRanks | None:
    """Rank the strategies over all settings in which each has `min_seeds` seeds.

    In a setting, strategies are ranked by the share of runs without a score, then by the mean
    score. Return None for fewer than two such settings.
    """
    groups = scores.groupby(["setting", "strategy"], sort=False)
    means = groups["score"].mean().unstack("strategy", sort=False) * metric.sign
    unscored = groups["score"].agg(lambda score: score.isna().mean())
    unscored = unscored.unstack("strategy", sort=False)
    seeds = groups.size().unstack("strategy", sort=False)
    complete = (seeds >= min_seeds).all(axis=1)
    if complete.sum() < 2 or unscored.shape[1] < 2:
        return None
    merit = means[complete].fillna(0.0).to_numpy(float)
    keys = np.stack(
        [_sort_keys(*row) for row in zip(unscored[complete].to_numpy(float), merit, strict=True)]
    )
    ranks = average_ranks(keys, level)
    order = np.argsort(ranks.average, kind="stable")
    sorted_ranks = Ranks(ranks.average[order], ranks.settings, ranks.p, ranks.critical_difference)
    return OverallRanks([str(unscored.columns[k]) for k in order], sorted_ranks)


def _sort_keys(unscored: np.ndarray, merit: np.ndarray) -> np.ndarray:
    """Return one number per strategy, larger for fewer runs without a score, then for more merit.

    Merits that differ only after 12 significant digits give the same number.
    """
    merit = np.array([float(f"{value:.12g}") for value in merit])
    pairs = np.array(
        list(zip(-unscored, merit, strict=True)), dtype=[("scored", float), ("merit", float)]
    )
    return np.unique(pairs, return_inverse=True)[1].astype(float)
