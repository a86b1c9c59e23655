"""Standings: the strategies of one group of settings, ranked by their mean score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.compare.spec import Metric
from analysis.compare.tuning import TunedStrategy
from fanin.statistics.interval import mean_interval
from fanin.statistics.strategies import interquartile_mean


def scores_by_seed(scores: pd.DataFrame) -> pd.DataFrame:
    """Average the scores of one group over its settings.

    Parameters
    ----------
    scores
        Rows of one group (`analysis.compare.tuning.chosen_scores`).

    Returns
    -------
    pandas.DataFrame
        Index `seed`, one column per strategy. NaN unless the strategy has a score for that seed in
        every setting of the group, because means over different settings are not comparable.
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
    """Rank the strategies of one group, best first; unranked strategies come last.

    Parameters
    ----------
    scores, tuned
        Scores and tuned strategies of the group (`analysis.compare.tuning`).
    planned
        All trials of the group.
    metric
        The metric.
    min_seeds
        Number of seeds that a strategy needs to be ranked.

    Returns
    -------
    pandas.DataFrame
        `strategy`; `mean`, `low`, `high` (95 % confidence interval over seeds) of the score at the
        tuned values; `seeds` (number with a score) and `seeds_planned`; `ranked`; `iqm`, `iqm_low`,
        `iqm_high` (interquartile mean); `best` (the distinct best values of the settings,
        ascending), `tried` (all planned values), `at_edge` (number of settings whose best value is
        the first or last tried), `cost` (mean over settings of `TunedStrategy.cost`), `settings`
        (their number); `diverged` and `runs` (numbers of runs at the tuned values), `diverged_all`
        and `runs_all` (at all values); `missing` (number of cells without a result).
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
    chosen = scores[scores["strategy"] == name]
    runs = planned[planned["strategy"] == name]
    by_setting = [results for (_, _, strategy), results in tuned.items() if strategy == name]
    mean, iqm = mean_interval(values), interquartile_mean(_finite_scores(chosen))
    return {
        "strategy": name,
        **{"mean": mean.value, "low": mean.low, "high": mean.high},
        **{"seeds": len(values), "seeds_planned": runs["seed"].nunique()},
        "ranked": len(values) >= min_seeds,
        **{"iqm": iqm.value, "iqm_low": iqm.low, "iqm_high": iqm.high},
        "best": _best_values(by_setting),
        "tried": tuple(sorted(set(runs["tuned"].dropna()))),
        "at_edge": sum(results.at_edge() for results in by_setting),
        "cost": _mean([results.cost() for results in by_setting]),
        "settings": len(by_setting),
        **{"diverged": int(chosen["diverged"].sum()), "runs": len(chosen)},
        "diverged_all": int(runs["diverged"].sum()),
        "runs_all": int(runs["done"].sum()),
        "missing": int((~runs["done"]).sum()),
    }


def _finite_scores(scores: pd.DataFrame) -> list[np.ndarray]:
    finite = scores[np.isfinite(scores["score"])]
    return [rows.to_numpy(float) for _, rows in finite.groupby("setting", sort=False)["score"]]


def _best_values(by_setting: Sequence[TunedStrategy]) -> tuple[float, ...]:
    best = [(results, results.best()) for results in by_setting]
    return tuple(sorted({float(results.values[k]) for results, k in best if k is not None}))


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")
