"""A sweep's cells as trials: strategy, setting, seed, tuned value, score."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.compare.metric import Metric
from analysis.compare.question import Question
from analysis.compare.words import ABSENT, SEEDS, belongs, label, words_of
from analysis.load import Results
from experiments.errors import FaninError, nearest
from experiments.sweep.store.frozen import read_frozen

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
        (the training loss, NaN where it is none), `diverged`, `done`.

    Raises
    ------
    FaninError
        An axis that the sweep doesn't have (the nearest are listed), or that is asked for twice;
        nothing trained yet.
    """
    frozen = list(read_frozen(results.folder).values())
    words = words_of(frozen)
    by, tuned, within = _axes(words, question)
    rest = [key for key in words.columns if key not in {*by, *tuned}]
    frame = pd.DataFrame(
        {
            "strategy": _labels(words, by),
            "setting": _labels(words, rest),
            "group": _labels(words, within),
            "seed": [json.dumps([line["config"][key] for key in SEEDS]) for line in frozen],
            "tuned": words[tuned[0]].astype(float) if tuned else np.nan,
        },
        index=words.index,
    )
    scored = frame.join(_scores(results, frozen, question.measured))
    if not scored["done"].any():
        raise FaninError(f"{results.folder.root}: no trained cell has ended yet")
    # Cells that differ in nothing that is told here (a probe's draws) are one trial.
    keys = ["strategy", "setting", "seed", "tuned"]
    scored = scored.sort_values("done", ascending=False, kind="stable").drop_duplicates(keys)
    return scored.reindex(words.index.intersection(scored.index, sort=False))[COLUMNS]


def _axes(words: pd.DataFrame, question: Question) -> tuple[list[str], list[str], list[str]]:
    """Columns of `words` that make strategies, that are tuned, and that make groups."""
    asked = [question.by, *question.within]
    if twice := {key for key in asked if asked.count(key) > 1 or key == question.tune}:
        raise FaninError(f"{', '.join(sorted(twice))}: an axis can be asked for in one place only")
    found = [_columns(words, key) for key in asked]
    there = {key for column in words.columns for key in (column, column.partition(".")[0])}
    for key, columns in zip(asked, found, strict=True):
        if not columns:
            raise FaninError(f"{key}: no axis of this sweep; {nearest(key, sorted(there))}")
    tuned = [question.tune] if question.tune in words.columns else []
    if tuned and (words[tuned[0]] == ABSENT).any():
        raise FaninError(f"{question.tune}: not every cell has one; choose another --tune, or none")
    by = [column for column in found[0] if column not in tuned]
    within = [column for columns in found[1:] for column in columns if column not in tuned]
    return by, tuned, within


def _columns(words: pd.DataFrame, key: str) -> list[str]:
    return [column for column in words.columns if belongs(column, key)]


def _labels(words: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    rows = words[list(keys)].to_dict("records") if keys else [{}] * len(words)
    return [label(row) or ALL for row in rows]


def _scores(results: Results, frozen: Sequence[Mapping[str, Any]], metric: Metric) -> pd.DataFrame:
    """`score`, `loss`, `diverged` and `done` of every planned cell."""
    planned = [line["cell_id"] for line in frozen]
    if results.cells.empty:
        none = {"score": np.nan, "loss": np.nan, "diverged": False, "done": False}
        return pd.DataFrame(none, index=planned)
    cells = results.cells.set_index("cell_id").reindex(planned)
    trained = np.array([line["config"]["train"]["steps"] != 0 for line in frozen])
    done = cells["outcome"].astype(object).isin(DONE).to_numpy() & trained
    value = cells[metric.column].to_numpy(float)
    diverged = (cells["outcome"].astype(object) == "diverged").to_numpy() | ~np.isfinite(value)
    score = np.where(diverged, _chances(frozen, metric), value)
    return pd.DataFrame(
        {
            "score": np.where(done, score, np.nan),
            "loss": np.where(done & ~diverged, cells["train_loss"].to_numpy(float), np.nan),
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
