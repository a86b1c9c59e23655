"""Which keys of a sweep make strategies, groups and the tuned value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.compare.spec import Question
from analysis.compare.words import ABSENT, belongs
from experiments.config.identity import flatten
from fanin.errors import FaninError, nearest


def axes(words: pd.DataFrame, question: Question) -> tuple[list[str], list[str], list[str]]:
    """Columns of `words` that make strategies, that are tuned, and that make groups.

    Raises
    ------
    FaninError
        An axis isn't there (the nearest are listed) or is asked for twice; or the losses of
        different loss functions would be compared.
    """
    asked = [question.by, *question.within]
    if twice := {key for key in asked if asked.count(key) > 1}:
        raise FaninError(f"{', '.join(sorted(twice))}: an axis can be asked for in one place only")
    if question.tune in asked:
        raise FaninError(f"{question.tune}: it is also what is tuned; --tune none, or another axis")
    there = {key for column in words.columns for key in (column, column.partition(".")[0])}
    for key in asked:
        if not _columns(words, key):
            raise FaninError(f"{key}: no axis of this sweep; {nearest(key, sorted(there))}")
    tuned = [question.tune] if question.tune in words.columns else []
    if question.tune not in (*tuned, Question.tune, ""):
        raise FaninError(
            f"--tune {question.tune}: no axis of this sweep; "
            f"{nearest(question.tune, ['none', *words.columns])}"
        )
    if question.by == "loss" and "loss" in words.columns and not question.measured.bounded:
        raise FaninError("loss: one loss's value says nothing of another's; --metric test_accuracy")
    # An axis has what no narrower one took: `--by init.gain --within init`.
    taken = set(tuned)
    columns: dict[str, list[str]] = {}
    for key in sorted(asked, key=len, reverse=True):
        columns[key] = [column for column in _columns(words, key) if column not in taken]
        taken.update(columns[key])
    if not columns[question.by]:
        raise FaninError(
            f"{question.by}: nothing but what is tuned or in --within tells its values apart; "
            "--tune none, or another --by"
        )
    return columns[question.by], tuned, [c for key in question.within for c in columns[key]]


def tuned_values(
    words: pd.DataFrame, frozen: Sequence[Mapping[str, Any]], tuned: Sequence[str]
) -> list[float]:
    """The tuned value of every cell: its own, or its option's default."""
    if not tuned:
        return [float("nan")] * len(frozen)
    values = [
        dict(flatten(line["config"])).get(tuned[0], ABSENT) if value == ABSENT else value
        for line, value in zip(frozen, words[tuned[0]], strict=True)
    ]
    if ABSENT in values:
        raise FaninError(f"{tuned[0]}: not every cell has one; choose another --tune, or none")
    wrong = [value for value in values if isinstance(value, bool | str)]
    if wrong:
        raise FaninError(f"--tune {tuned[0]}: only numbers can be tuned, and {wrong[0]} is none")
    return [float(value) for value in values]


def _columns(words: pd.DataFrame, key: str) -> list[str]:
    return [column for column in words.columns if belongs(column, key)]
