"""Every pair of strategies in every group: difference, test, probability of improvement."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from analysis.compare.metric import Metric
from analysis.compare.standings import by_seed
from fanin.statistics.paired import paired
from fanin.statistics.runs import probability_of_improvement


def pairs(scores: pd.DataFrame, ranked: Sequence[str], metric: Metric) -> list[dict[str, Any]]:
    """Compare the ranked strategies of one group, best first, on the seeds that both have.

    Returns
    -------
    list of dict
        `a` (which stands above), `b`, `difference` (mean of a - b), `low`, `high` (95 %), `p`
        (paired t-test), `pairs` (how many seeds), and `improvement`: the chance that a run of `a`
        beats one of `b` in the same setting, where a run without a score loses to all that have
        one.
    """
    seeds = by_seed(scores)
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
