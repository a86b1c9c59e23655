"""Strategies ranked over all settings of a sweep."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.compare.metric import Metric
from fanin.statistics.ranks import Ranks, average_ranks


@dataclass(frozen=True)
class Overall:
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


def overall(scores: pd.DataFrame, metric: Metric, level: float, enough: int) -> Overall | None:
    """Rank strategies in every setting with `enough` seeds of all; None for fewer than two.

    In each setting by the mean score over seeds; where a run without a score is in it, a strategy
    ranks behind all that have none, more such runs behind fewer.
    """
    groups = scores.groupby(["setting", "strategy"], sort=False)
    means = groups["score"].mean().unstack("strategy", sort=False) * metric.sign
    lost = groups["score"].agg(lambda score: score.isna().mean()).unstack("strategy", sort=False)
    seeds = groups.size().unstack("strategy", sort=False)
    whole = (seeds >= enough).all(axis=1)
    if whole.sum() < 2 or lost.shape[1] < 2:
        return None
    merit = means[whole].fillna(0.0).to_numpy(float)
    places = np.stack(
        [_places(*row) for row in zip(lost[whole].to_numpy(float), merit, strict=True)]
    )
    ranks = average_ranks(places, level)
    order = np.argsort(ranks.average, kind="stable")
    sorted_ranks = Ranks(ranks.average[order], ranks.settings, ranks.p, ranks.critical_difference)
    return Overall([str(lost.columns[k]) for k in order], sorted_ranks)


def _places(lost: np.ndarray, merit: np.ndarray) -> np.ndarray:
    """Numbers in the order of (fewer lost, larger merit); equal where both are, rounding aside."""
    merit = np.array([float(f"{value:.12g}") for value in merit])
    pairs = np.array(
        list(zip(-lost, merit, strict=True)), dtype=[("kept", float), ("merit", float)]
    )
    return np.unique(pairs, return_inverse=True)[1].astype(float)
