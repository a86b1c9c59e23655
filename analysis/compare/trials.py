"""A sweep's cells as trials: strategy, setting, seed, tuned value, score."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.compare.spec import ComparisonSpec, Metric
from analysis.load import Results
from analysis.settings import axis_sort_key
from experiments.config.groups import SEEDS
from experiments.config.identity import flatten, scientific
from experiments.sweep.differences import short_label, varies
from experiments.sweep.store.plan_file import read_plan
from experiments.sweep.store.tables import DONE
from fanin.errors import FaninError, suggest

ALL = "all settings"  # the group of everything
COLUMNS = ["strategy", "setting", "group", "seed", "tuned", "score", "loss", "diverged", "done"]
ABSENT = ""  # a key that a cell's option does not have


def trials(results: Results, spec: ComparisonSpec) -> pd.DataFrame:
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
    frozen = list(read_plan(results.folder).values())
    words = varying_values(frozen)
    by, tuned, within = resolve_axes(words, spec)
    # What is probed changes no training: it makes no setting of its own, unless asked for.
    rest = [
        key
        for key in words.columns
        if key not in {*by, *tuned} and (key in within or not belongs_to(key, "probe"))
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
    scored = frame.join(_scores(results, frozen, spec.metric_info))
    if not scored["done"].any():
        raise FaninError(f"{results.folder.root}: no trained cell has ended yet")
    scored = scored[scored["scorable"]]
    if scored.empty:
        raise FaninError(f"{spec.metric}: these data have no classes; --metric test_loss")
    # Cells that differ in nothing that is told here (their probes) are one trial.
    keys = ["strategy", "setting", "seed", "tuned"]
    scored = scored.sort_values("done", ascending=False, kind="stable").drop_duplicates(keys)
    return scored.reindex(words.index.intersection(scored.index, sort=False))[COLUMNS]


def _labels(words: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    rows = words[list(keys)].to_dict("records") if keys else [{}] * len(words)
    names = ", ".join(key.partition(".")[2] or key for key in keys)
    without = f"without {names}" if keys else ALL
    present = ({key: value for key, value in row.items() if value != ABSENT} for row in rows)
    return [short_label(row) or without for row in present]


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


def resolve_axes(
    words: pd.DataFrame, spec: ComparisonSpec
) -> tuple[list[str], list[str], list[str]]:
    """Columns of `words` that make strategies, that are tuned, and that make groups.

    Raises
    ------
    FaninError
        An axis isn't there (the nearest are listed) or is asked for twice; or the losses of
        different loss functions would be compared.
    """
    asked = [spec.by, *spec.within]
    if twice := {key for key in asked if asked.count(key) > 1}:
        raise FaninError(f"{', '.join(sorted(twice))}: an axis can be asked for in one place only")
    if spec.tune in asked:
        raise FaninError(f"{spec.tune}: it is also what is tuned; --tune none, or another axis")
    there = {key for column in words.columns for key in (column, column.partition(".")[0])}
    for key in asked:
        if not _columns(words, key):
            raise FaninError(f"{key}: no axis of this sweep; {suggest(key, sorted(there))}")
    tuned = [spec.tune] if spec.tune in words.columns else []
    if spec.tune not in (*tuned, ComparisonSpec.tune, ""):
        raise FaninError(
            f"--tune {spec.tune}: no axis of this sweep; "
            f"{suggest(spec.tune, ['none', *words.columns])}"
        )
    if spec.by == "loss" and "loss" in words.columns and not spec.metric_info.bounded:
        raise FaninError("loss: one loss's value says nothing of another's; --metric test_accuracy")
    # An axis has what no narrower one took: `--by init.gain --within init`.
    taken = set(tuned)
    columns: dict[str, list[str]] = {}
    for key in sorted(asked, key=len, reverse=True):
        columns[key] = [column for column in _columns(words, key) if column not in taken]
        taken.update(columns[key])
    if not columns[spec.by]:
        raise FaninError(
            f"{spec.by}: nothing but what is tuned or in --within tells its values apart; "
            "--tune none, or another --by"
        )
    return columns[spec.by], tuned, [c for key in spec.within for c in columns[key]]


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
    return [column for column in words.columns if belongs_to(column, key)]


def varying_values(frozen: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Every key that not all cells of a sweep have with one value, seeds aside.

    Parameters
    ----------
    frozen
        Lines of the sweep's `cells.jsonl`.

    Returns
    -------
    pandas.DataFrame
        Index `cell_id`; a column per option group (`init`: `normal`) and per dotted key that
        somebody set (`init.std`: 0.01), in the order in which labels name them. `ABSENT` where a
        cell's option doesn't have the key.
    """
    asked = {(key, _option(line, key)) for line in frozen for key in scientific(line["asked"])}
    rows = {line["cell_id"]: _words(line, asked) for line in frozen}
    _normalize_numbers(rows.values())
    keys = dict.fromkeys(key for words in rows.values() for key in words)
    varying = [key for key in keys if varies(words.get(key, ABSENT) for words in rows.values())]
    columns = {
        key: [words.get(key, ABSENT) for words in rows.values()]
        for key in sorted(varying, key=axis_sort_key)
    }
    return pd.DataFrame(columns, index=pd.Index(rows, name="cell_id"), dtype=object)


def belongs_to(key: str, to: str) -> bool:
    """Return True if a key is a group's, or a group's option itself.

    >>> belongs_to("init.std", "init"), belongs_to("init", "init"), belongs_to("init", "init.std")
    (True, True, False)
    """
    return key == to or key.startswith(f"{to}.")


def _words(line: Mapping[str, Any], asked: set[tuple[str, Any]]) -> dict[str, Any]:
    words: dict[str, Any] = dict(line["choices"])
    config = dict(flatten(line["config"]))
    own = scientific(line["asked"])
    for key in sorted({key for key, _ in asked if "." in key}):
        if (key, _option(line, key)) in asked:  # somebody set it for this option
            value = own.get(key, config.get(key, ABSENT))
            words[key] = value if isinstance(value, str | int | float) else json.dumps(value)
    return words


def _normalize_numbers(rows: Iterable[dict[str, Any]]) -> None:
    """One spelling a number: `gain=1` in one command and 1.0 in another are one value."""
    first: dict[Any, Any] = {}
    for words in rows:
        for key, value in words.items():
            words[key] = first.setdefault((key, isinstance(value, bool), value), value)


def _option(line: Mapping[str, Any], key: str) -> Any:
    return line["choices"].get(key.partition(".")[0])
