"""Each strategy's standing in a group of settings: mean over seeds, quartiles, learning rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.compare.metric import Metric
from analysis.compare.tuning import Tuned
from fanin.statistics.interval import mean_interval
from fanin.statistics.runs import interquartile_mean


def by_seed(scores: pd.DataFrame) -> pd.DataFrame:
    """One group's scores, averaged over its settings.

    Parameters
    ----------
    scores
        Rows of one group (`analysis.compare.tuning.scores`).

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


def standings(
    scores: pd.DataFrame,
    tuned: dict[tuple[str, str, str], Tuned],
    planned: pd.DataFrame,
    metric: Metric,
    enough: int,
) -> pd.DataFrame:
    """A row per strategy of one group, best first, those without enough seeds last.

    Parameters
    ----------
    scores, tuned
        One group's, of `analysis.compare.tuning`.
    planned
        The group's trials.
    metric
        What is compared.
    enough
        How many seeds it takes to be ranked.

    Returns
    -------
    pandas.DataFrame
        `strategy`; `mean`, `low`, `high` (95 % over seeds) of the score at the value that each
        seed chose; `seeds` that have one, `of_seeds` planned; `ranked`; `iqm`, `iqm_low`,
        `iqm_high`; `best` (the best tuned value of each setting, ascending), `tried` (all that were
        planned), `at_edge` (in how many settings the best is the first or last tried),
        `cost` (mean over settings of `Tuned.cost`), `settings`; `diverged` and `runs` at the chosen
        values, `diverged_all` and `runs_all` at all; `missing`, planned cells that have not ended.
    """
    seeds = by_seed(scores)
    rows = [
        _standing(name, seeds, scores, tuned, planned, enough)
        for name in dict.fromkeys(planned["strategy"])
    ]
    frame = pd.DataFrame(rows)
    merit = (metric.sign * frame["mean"]).where(frame["ranked"], -np.inf)
    return frame.loc[merit.sort_values(ascending=False, kind="stable").index].reset_index(drop=True)


def _standing(
    name: str,
    seeds: pd.DataFrame,
    scores: pd.DataFrame,
    tuned: dict[tuple[str, str, str], Tuned],
    planned: pd.DataFrame,
    enough: int,
) -> dict[str, Any]:
    values = seeds[name].dropna() if name in seeds else pd.Series(dtype=float)
    mine, all_mine = scores[scores["strategy"] == name], planned[planned["strategy"] == name]
    of_settings = [each for (_, _, strategy), each in tuned.items() if strategy == name]
    mean, middle = mean_interval(values), interquartile_mean(_runs(mine))
    return {
        "strategy": name,
        **{"mean": mean.value, "low": mean.low, "high": mean.high},
        **{"seeds": len(values), "of_seeds": all_mine["seed"].nunique()},
        "ranked": len(values) >= enough,
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


def _best(of_settings: Sequence[Tuned]) -> tuple[float, ...]:
    places = [(each, each.best()) for each in of_settings]
    return tuple(sorted({float(each.values[k]) for each, k in places if k is not None}))


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")
