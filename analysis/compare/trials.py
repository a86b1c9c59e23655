"""A sweep's cells as trials: strategy, setting, seed, tuned value, score."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.compare.axes import axes, tuned_values
from analysis.compare.metric import Metric
from analysis.compare.spec import Question
from analysis.compare.words import belongs, label, last, words_of
from analysis.keys import SEEDS
from analysis.load import Results
from experiments.sweep.store.plan_file import read_frozen
from fanin.errors import FaninError

DONE = ("ok", "diverged")
ALL = "all settings"  # the group of everything
COLUMNS = ["strategy", "setting", "group", "seed", "tuned", "score", "loss", "diverged", "done"]


def trials(results: Results, question: Question) -> pd.DataFrame:
    """Read a sweep's planned cells as trials.

    Returns
    -------
    pandas.DataFrame
        A row per planned cell, in the order of the plan: `strategy`, `setting` (everything that is
        neither strategy, seed nor tuned), `group` (the setting's part that `within` names), `seed`
        (those of weights, batches and all else: trials of equal seeds make a pair), `tuned` (NaN
        where nothing is), `score` (NaN where a loss diverged, or the cell isn't done), `loss`
        (the training loss, NaN where it is none), `diverged`, `done`. Cells without classes are no
        trials of an accuracy.

    Raises
    ------
    FaninError
        An axis that the sweep doesn't have (the nearest are listed), or that is asked for twice;
        nothing trained yet.
    """
    frozen = list(read_frozen(results.folder).values())
    words = words_of(frozen)
    by, tuned, within = axes(words, question)
    # What is probed changes no training: it makes no setting of its own, unless asked for.
    rest = [
        key
        for key in words.columns
        if key not in {*by, *tuned} and (key in within or not belongs(key, "probe"))
    ]
    frame = pd.DataFrame(
        {
            "strategy": _labels(words, by),
            "setting": _labels(words, rest),
            "group": _labels(words, within),
            "seed": [json.dumps([line["config"][key] for key in SEEDS]) for line in frozen],
            "tuned": tuned_values(words, frozen, tuned),
        },
        index=words.index,
    )
    scored = frame.join(_scores(results, frozen, question.measured))
    if not scored["done"].any():
        raise FaninError(f"{results.folder.root}: no trained cell has ended yet")
    scored = scored[scored["scorable"]]
    if scored.empty:
        raise FaninError(f"{question.metric}: these data have no classes; --metric test_loss")
    # Cells that differ in nothing that is told here (their probes) are one trial.
    keys = ["strategy", "setting", "seed", "tuned"]
    scored = scored.sort_values("done", ascending=False, kind="stable").drop_duplicates(keys)
    return scored.reindex(words.index.intersection(scored.index, sort=False))[COLUMNS]


def _labels(words: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    rows = words[list(keys)].to_dict("records") if keys else [{}] * len(words)
    without = f"without {', '.join(map(last, keys))}" if keys else ALL
    return [label(row) or without for row in rows]


def _scores(results: Results, frozen: Sequence[Mapping[str, Any]], metric: Metric) -> pd.DataFrame:
    """`score`, `loss`, `diverged` and `done` of every planned cell."""
    planned = [line["cell_id"] for line in frozen]
    if results.cells.empty:
        none = {"score": np.nan, "loss": np.nan, "scorable": True, "diverged": False, "done": False}
        return pd.DataFrame(none, index=planned)
    cells = results.cells.set_index("cell_id").reindex(planned)
    trained = np.array([line["config"]["train"]["steps"] != 0 for line in frozen])
    done = cells["outcome"].astype(object).isin(DONE).to_numpy() & trained
    value = cells[metric.column].to_numpy(float)
    diverged = (cells["outcome"].astype(object) == "diverged").to_numpy() | ~np.isfinite(value)
    chances = np.array(_chances(frozen, metric))
    score = np.where(diverged, chances, value)
    return pd.DataFrame(
        {
            "score": np.where(done, score, np.nan),
            "loss": np.where(done & ~diverged, cells["train_loss"].to_numpy(float), np.nan),
            "scorable": np.isfinite(chances) if metric.bounded else True,
            "diverged": done & diverged,
            "done": done,
        },
        index=planned,
    )


def _chances(frozen: Sequence[Mapping[str, Any]], metric: Metric) -> list[float]:
    known: dict[str, float] = {}
    found = []
    for line in frozen:
        key = json.dumps(line["config"]["data"], sort_keys=True)
        if key not in known:
            known[key] = metric.chance(line["config"])
        found.append(known[key])
    return found
