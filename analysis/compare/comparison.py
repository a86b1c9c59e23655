"""Strategies of a sweep compared: standings, paired differences, and ranks over all settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from analysis.compare.spec import MIN_SEEDS, ComparisonSpec, Metric
from analysis.compare.trials import trials
from analysis.compare.tuning import TunedStrategy, chosen_scores, mean_by_value, tune_by_setting
from analysis.load import Results
from fanin.errors import FaninError
from fanin.statistics.holm import holm
from fanin.statistics.interval import mean_interval
from fanin.statistics.strategies import (
    Ranks,
    average_ranks,
    interquartile_mean,
    paired,
    probability_of_improvement,
)

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
        A row per strategy (`analysis.compare.comparison.compute_standings`).
    pairs
        A row per pair of ranked strategies (`analysis.compare.comparison.compare_pairs`), and
        `p_holm`, corrected over all groups.
    """

    title: str
    settings: list[str]
    standings: pd.DataFrame
    pairs: pd.DataFrame


@dataclass(frozen=True)
class InitComparison:
    """Every group, and all settings together.

    Attributes
    ----------
    spec
        What was asked.
    groups
        In the order of the plan.
    scores
        One a seed (`analysis.compare.tuning.chosen_scores`).
    values
        Mean scores at every tuned value (`analysis.compare.tuning.mean_by_value`).
    overall
        Ranks over all settings; None where there are fewer than two.
    without_results
        Titles of groups of which no cell has a result yet.
    """

    spec: ComparisonSpec
    groups: list[Group]
    scores: pd.DataFrame
    values: pd.DataFrame
    overall: OverallRanks | None
    without_results: list[str] = field(default_factory=list)

    @property
    def order(self) -> list[str]:
        """All strategies, by their average rank, or as they stand in the first group."""
        ranked = self.overall.strategies if self.overall else []
        return list(
            dict.fromkeys([*ranked, *(n for g in self.groups for n in g.standings["strategy"])])
        )


def compare_strategies(results: Results, spec: ComparisonSpec | None = None) -> InitComparison:
    """Compare a sweep's strategies, from its tables alone.

    Parameters
    ----------
    results
        The sweep; one that still runs will do.
    spec
        What to compare; None: init schemes by their test accuracy.

    Raises
    ------
    FaninError
        Such an axis or metric isn't there (the nearest are listed), there is only one strategy, or
        there are fewer than three seeds and `few_seeds` doesn't say to rank all the same.
    """
    spec = spec or ComparisonSpec()
    return compare_trials(trials(results, spec), spec)


def compare_trials(planned: pd.DataFrame, spec: ComparisonSpec) -> InitComparison:
    """Compare trials (`analysis.compare.trials.trials`), of which some have ended."""
    metric = spec.metric_info
    _check(planned, spec)
    groups, all_scores, all_values = [], [], []
    without_results: list[str] = []
    for title, mine in planned.groupby("group", sort=False):
        tuned = tune_by_setting(mine, metric)
        scored = chosen_scores(tuned)
        if scored.empty:
            without_results.append(str(title))
            continue
        table = compute_standings(scored, tuned, mine, metric, spec.min_seeds)
        found = compare_pairs(scored, list(table.loc[table["ranked"], "strategy"]), metric)
        names = list(dict.fromkeys(mine["setting"]))
        groups.append(Group(str(title), names, table, pd.DataFrame(found, columns=PAIRS)))
        all_scores.append(scored)
        all_values.append(mean_by_value(tuned))
    _correct(groups)
    joined = pd.concat(all_scores, ignore_index=True)
    values = pd.concat(all_values, ignore_index=True)
    ranks = rank_overall(joined, metric, spec.level, spec.min_seeds)
    return InitComparison(spec, groups, joined, values, ranks, without_results)


def _correct(groups: list[Group]) -> None:
    """Holm's correction over the pairs of all groups: they are read together."""
    together = pd.concat([group.pairs["p"] for group in groups], ignore_index=True)
    adjusted = holm(together.astype(float))
    first = 0
    for group in groups:
        last = first + len(group.pairs)
        group.pairs["p_holm"] = adjusted[first:last]
        first = last


def _check(planned: pd.DataFrame, spec: ComparisonSpec) -> None:
    strategies = planned["strategy"].nunique()
    if strategies < 2:
        raise FaninError(f"{spec.by}: the sweep has only one ({planned['strategy'].iloc[0]})")
    seeds = planned.groupby(["setting", "strategy"], sort=False)["seed"].nunique()
    if seeds.max() < spec.min_seeds:
        raise FaninError(
            f"{seeds.max()} seed{'s' if seeds.max() > 1 else ''} a setting: too few to rank "
            f"strategies by. Run {MIN_SEEDS} or more ('seed=range(5)' beside the sweep's command);
            or " "--few-seeds, to see a ranking that luck may have made"
        )


def scores_by_seed(scores: pd.DataFrame) -> pd.DataFrame:
    """One group's scores, averaged over its settings.

    Parameters
    ----------
    scores
        Rows of one group (`analysis.compare.tuning.chosen_scores`).

    Returns
    -------
    pandas.DataFrame
        Index `seed`, a column per strategy; NaN unless the strategy has a score for that seed in
        every one of the group's settings: a mean over some of them would compare other things.
    """
    settings = scores["setting"].nunique()
    groups = scores.groupby(["seed", "strategy"], sort=False)["score"]
    mean = groups.mean().where(groups.count() == settings)
    return mean.unstack("strategy", sort=False)


def compute_standings(
    scores: pd.DataFrame,
    tuned: dict[tuple[str, str, str], TunedStrategy],
    planned: pd.DataFrame,
    metric: Metric,
    min_seeds: int,
) -> pd.DataFrame:
    """A row per strategy of one group, best first, those without min_seeds seeds last.

    Parameters
    ----------
    scores, tuned
        One group's, of `analysis.compare.tuning`.
    planned
        The group's trials.
    metric
        What is compared.
    min_seeds
        How many seeds it takes to be ranked.

    Returns
    -------
    pandas.DataFrame
        `strategy`; `mean`, `low`, `high` (95 % over seeds) of the score at the value that each
        seed chose; `seeds` that have one, `seeds_planned` planned; `ranked`; `iqm`, `iqm_low`,
        `iqm_high`; `best` (the best tuned value of each setting, ascending), `tried` (all that were
        planned), `at_edge` (in how many settings the best is the first or last tried),
        `cost` (mean over settings of `TunedStrategy.cost`), `settings`; `diverged` and `runs` at
        the chosen values, `diverged_all` and `runs_all` at all; `missing`, planned cells that have
        not ended.
    """
    seeds = scores_by_seed(scores)
    rows = [
        _standing(name, seeds, scores, tuned, planned, min_seeds)
        for name in dict.fromkeys(planned["strategy"])
    ]
    frame = pd.DataFrame(rows)
    merit = (metric.sign * frame["mean"]).where(frame["ranked"], -np.inf)
    return frame.loc[merit.sort_values(ascending=False, kind="stable").index].reset_index(drop=True)


def _standing(
    name: str,
    seeds: pd.DataFrame,
    scores: pd.DataFrame,
    tuned: dict[tuple[str, str, str], TunedStrategy],
    planned: pd.DataFrame,
    min_seeds: int,
) -> dict[str, Any]:
    values = seeds[name].dropna() if name in seeds else pd.Series(dtype=float)
    mine, all_mine = scores[scores["strategy"] == name], planned[planned["strategy"] == name]
    of_settings = [each for (_, _, strategy), each in tuned.items() if strategy == name]
    mean, middle = mean_interval(values), interquartile_mean(_runs(mine))
    return {
        "strategy": name,
        **{"mean": mean.value, "low": mean.low, "high": mean.high},
        **{"seeds": len(values), "seeds_planned": all_mine["seed"].nunique()},
        "ranked": len(values) >= min_seeds,
        **{"iqm": middle.value, "iqm_low": middle.low, "iqm_high": middle.high},
        "best": _best(of_settings),
        "tried": tuple(sorted(set(all_mine["tuned"].dropna()))),
        "at_edge": sum(each.at_edge() for each in of_settings),
        "cost": _mean([each.cost() for each in of_settings]),
        "settings": len(of_settings),
        **{"diverged": int(mine["diverged"].sum()), "runs": len(mine)},
        "diverged_all": int(all_mine["diverged"].sum()),
        "runs_all": int(all_mine["done"].sum()),
        "missing": int((~all_mine["done"]).sum()),
    }


def _runs(scores: pd.DataFrame) -> list[np.ndarray]:
    finite = scores[np.isfinite(scores["score"])]
    return [rows.to_numpy(float) for _, rows in finite.groupby("setting", sort=False)["score"]]


def _best(of_settings: Sequence[TunedStrategy]) -> tuple[float, ...]:
    places = [(each, each.best()) for each in of_settings]
    return tuple(sorted({float(each.values[k]) for each, k in places if k is not None}))


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


def compare_pairs(
    scores: pd.DataFrame, ranked: Sequence[str], metric: Metric
) -> list[dict[str, Any]]:
    """Compare the ranked strategies of one group, best first, on the seeds that both have.

    Returns
    -------
    list of dict
        `a` (which stands above), `b`, `difference` (mean of a - b), `low`, `high` (95 %), `p`
        (paired t-test), `pairs` (how many seeds), and `improvement`: the chance that a run of `a`
        beats one of `b` in the same setting, where a run without a score loses to all that have
        one.
    """
    seeds = scores_by_seed(scores)
    settings = list(dict.fromkeys(scores["setting"]))
    merits = {name: _merits(scores, name, settings, metric) for name in ranked}
    rows = []
    for a, b in combinations(ranked, 2):
        found = paired(seeds[a].to_numpy(float), seeds[b].to_numpy(float))
        rows.append(
            {
                "a": a,
                "b": b,
                "difference": found.difference.value,
                "low": found.difference.low,
                "high": found.difference.high,
                "p": found.p,
                "pairs": found.pairs,
                "improvement": probability_of_improvement(merits[a], merits[b]),
            }
        )
    return rows


def _merits(
    scores: pd.DataFrame, name: str, settings: Sequence[str], metric: Metric
) -> list[np.ndarray]:
    mine = scores[scores["strategy"] == name]
    merit = (metric.sign * mine["score"]).fillna(-np.inf)
    return [merit[mine["setting"] == setting].to_numpy(float) for setting in settings]


@dataclass(frozen=True)
class OverallRanks:
    """Average ranks by strategy, best first.

    Attributes
    ----------
    strategies
        In the order of their average rank.
    ranks
        Their ranks, in that order.
    """

    strategies: list[str]
    ranks: Ranks


def rank_overall(
    scores: pd.DataFrame, metric: Metric, level: float, min_seeds: int
) -> OverallRanks | None:
    """Rank strategies in every setting with `min_seeds` seeds of all; None for fewer than two.

    In each setting by the mean score over seeds; where a run without a score is in it, a strategy
    ranks behind all that have none, more such runs behind fewer.
    """
    groups = scores.groupby(["setting", "strategy"], sort=False)
    means = groups["score"].mean().unstack("strategy", sort=False) * metric.sign
    lost = groups["score"].agg(lambda score: score.isna().mean()).unstack("strategy", sort=False)
    seeds = groups.size().unstack("strategy", sort=False)
    whole = (seeds >= min_seeds).all(axis=1)
    if whole.sum() < 2 or lost.shape[1] < 2:
        return None
    merit = means[whole].fillna(0.0).to_numpy(float)
    places = np.stack(
        [_places(*row) for row in zip(lost[whole].to_numpy(float), merit, strict=True)]
    )
    ranks = average_ranks(places, level)
    order = np.argsort(ranks.average, kind="stable")
    sorted_ranks = Ranks(ranks.average[order], ranks.settings, ranks.p, ranks.critical_difference)
    return OverallRanks([str(lost.columns[k]) for k in order], sorted_ranks)


def _places(lost: np.ndarray, merit: np.ndarray) -> np.ndarray:
    """Numbers in the order of (fewer lost, larger merit); equal where both are, rounding aside."""
    merit = np.array([float(f"{value:.12g}") for value in merit])
    pairs = np.array(
        list(zip(-lost, merit, strict=True)), dtype=[("kept", float), ("merit", float)]
    )
    return np.unique(pairs, return_inverse=True)[1].astype(float)
