"""Cells of a sweep as trials: strategy, setting, seed, tuned value, score."""

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
from experiments.sweep.store.tables import DONE
from fanin.errors import FaninError, suggest

ALL = "all settings"  # label without any axis
COLUMNS = ["strategy", "setting", "group", "seed", "tuned", "score", "loss", "diverged", "done"]
ABSENT = ""  # value of a key that a cell's option does not have


def read_trials(results: Results, spec: ComparisonSpec) -> pd.DataFrame:
    """Read the planned cells of a sweep as trials.

    Returns
    -------
    pandas.DataFrame
        One row per planned cell, in plan order: `strategy`; `setting` (all axes except strategy,
        seeds and tuned axis); `group` (the axes of `within`); `seed` (all seeds of the cell; trials
        with equal seeds are paired); `tuned` (the tuned value, NaN without tuning); `score` (NaN
        for a diverged run compared by a loss, and for a cell that is not done); `loss` (the
        training loss, or NaN); `diverged`; `done`. If the metric is an accuracy, cells of
        regressions are left out.

    Raises
    ------
    FaninError
        An axis does not exist (the message lists the nearest ones) or is given twice, or no trained
        cell is done yet.
    """
    records = list(results.plan.values())
    axis_values = varying_values(records)
    by, tuned, within = resolve_axes(axis_values, spec)
    # The probe does not change training, so its keys define settings only if `within` names them.
    setting_keys = [
        key
        for key in axis_values.columns
        if key not in {*by, *tuned} and (key in within or not belongs_to(key, "probe"))
    ]
    frame = pd.DataFrame(
        {
            "strategy": _labels(axis_values, by),
            "setting": _labels(axis_values, setting_keys),
            "group": _labels(axis_values, within),
            "seed": [json.dumps([record["config"][key] for key in SEEDS]) for record in records],
            "tuned": tuned_values(axis_values, records, tuned),
        },
        index=axis_values.index,
    )
    scored = frame.join(_scores(results, records, spec.metric_info))
    if not scored["done"].any():
        raise FaninError(f"{results.folder.root}: no cell with train.steps above 0 has finished")
    scored = scored[scored["has_metric"]]
    if scored.empty:
        raise FaninError(f"{spec.metric}: the data has no classes; use --metric test_loss")
    # Cells that differ only in their probe are one trial.
    keys = ["strategy", "setting", "seed", "tuned"]
    scored = scored.sort_values("done", ascending=False, kind="stable").drop_duplicates(keys)
    return scored.reindex(axis_values.index.intersection(scored.index, sort=False))[COLUMNS]


def _labels(axis_values: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    rows = axis_values[list(keys)].to_dict("records") if keys else [{}] * len(axis_values)
    names = ", ".join(key.partition(".")[2] or key for key in keys)
    empty = f"without {names}" if keys else ALL
    present = ({key: value for key, value in row.items() if value != ABSENT} for row in rows)
    return [short_label(row) or empty for row in present]


def _scores(results: Results, records: Sequence[Mapping[str, Any]], metric: Metric) -> pd.DataFrame:
    """Return `score`, `loss`, `has_metric`, `diverged` and `done` of every planned cell."""
    planned = [record["cell_id"] for record in records]
    if results.cells.empty:
        empty = {
            **{"score": np.nan, "loss": np.nan},
            **{"has_metric": True, "diverged": False, "done": False},
        }
        return pd.DataFrame(empty, index=planned)
    cells = results.cells.set_index("cell_id").reindex(planned)
    trained = np.array([record["config"]["train"]["steps"] != 0 for record in records])
    done = cells["outcome"].astype(object).isin(DONE).to_numpy() & trained
    value = cells[metric.column].to_numpy(float)
    diverged = (cells["outcome"].astype(object) == "diverged").to_numpy() | ~np.isfinite(value)
    chance = np.array(_chance_scores(records, metric))
    score = np.where(diverged, chance, value)
    return pd.DataFrame(
        {
            "score": np.where(done, score, np.nan),
            "loss": np.where(done & ~diverged, cells["train_loss"].to_numpy(float), np.nan),
            "has_metric": np.isfinite(chance) if metric.bounded else True,
            "diverged": done & diverged,
            "done": done,
        },
        index=planned,
    )


def _chance_scores(records: Sequence[Mapping[str, Any]], metric: Metric) -> list[float]:
    by_data: dict[str, float] = {}
    scores = []
    for record in records:
        key = json.dumps(record["config"]["data"], sort_keys=True)
        if key not in by_data:
            by_data[key] = metric.chance_score(record["config"])
        scores.append(by_data[key])
    return scores


def resolve_axes(
    axis_values: pd.DataFrame, spec: ComparisonSpec
) -> tuple[list[str], list[str], list[str]]:
    """Return the columns that define strategies, the tuned column, and those that define groups.

    Raises
    ------
    FaninError
        An axis does not exist (the message lists the nearest ones) or is given twice, or the
        comparison would be between values of different loss functions.
    """
    requested = [spec.by, *spec.within]
    if repeated := {key for key in requested if requested.count(key) > 1}:
        raise FaninError(
            f"{', '.join(sorted(repeated))}: given twice in --by and --within; name each axis once"
        )
    if spec.tune in requested:
        raise FaninError(
            f"{spec.tune}: both compared and tuned; use --tune none, or --tune with another axis"
        )
    valid = {key for column in axis_values.columns for key in (column, column.partition(".")[0])}
    for key in requested:
        if not _columns(axis_values, key):
            raise FaninError(_not_an_axis(key, valid))
    tuned = [spec.tune] if spec.tune in axis_values.columns else []
    if spec.tune not in (*tuned, ComparisonSpec.tune, ""):
        raise FaninError(
            f"--tune {spec.tune}: not an axis of this sweep; "
            f"{suggest(spec.tune, ['none', *axis_values.columns])}"
        )
    if spec.by == "loss" and "loss" in axis_values.columns and not spec.metric_info.bounded:
        raise FaninError(
            "loss: values of different losses are not comparable; use --metric test_accuracy"
        )
    # The more specific key takes its column first: `--by init.gain --within init`.
    taken = set(tuned)
    columns: dict[str, list[str]] = {}
    for key in sorted(requested, key=len, reverse=True):
        columns[key] = [column for column in _columns(axis_values, key) if column not in taken]
        taken.update(columns[key])
    if not columns[spec.by]:
        raise FaninError(
            f"{spec.by}: all its keys are tuned or in --within, so there is nothing to compare; "
            "use --tune none, or another --by"
        )
    return columns[spec.by], tuned, [c for key in spec.within for c in columns[key]]


def _not_an_axis(key: str, valid: set[str]) -> str:
    if key in SEEDS:
        return f"{key}: seeds are averaged, not compared; {suggest(key, sorted(valid))}"
    hint = suggest(key, sorted(valid)) if valid else "its cells differ only in seeds"
    return f"{key}: not an axis of this sweep; {hint}"


def tuned_values(
    axis_values: pd.DataFrame, records: Sequence[Mapping[str, Any]], tuned: Sequence[str]
) -> list[float]:
    """Return each cell's value of the tuned key; the option's default if the cell sets none."""
    if not tuned:
        return [float("nan")] * len(records)
    values = [
        dict(flatten(record["config"])).get(tuned[0], ABSENT) if value == ABSENT else value
        for record, value in zip(records, axis_values[tuned[0]], strict=True)
    ]
    if ABSENT in values:
        raise FaninError(
            f"--tune {tuned[0]}: some cells do not have this key; use --tune none or another key"
        )
    invalid = [value for value in values if isinstance(value, bool | str)]
    if invalid:
        raise FaninError(f"--tune {tuned[0]}: only numbers can be tuned, not {invalid[0]}")
    return [float(value) for value in values]


def _columns(axis_values: pd.DataFrame, key: str) -> list[str]:
    return [column for column in axis_values.columns if belongs_to(column, key)]


def varying_values(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the value of every key that varies within a sweep, except seeds.

    Parameters
    ----------
    records
        Plan records of the sweep (lines of `cells.jsonl`).

    Returns
    -------
    pandas.DataFrame
        Index `cell_id`. The columns are the option groups (`init`: `normal`) and the dotted keys
        that were set explicitly (`init.std`: 0.01), in the order of labels. `ABSENT` where a cell's
        option does not have the key.
    """
    set_keys = {
        (key, _option(record, key))
        for record in records
        for key in scientific(record["assignment"])
    }
    rows = {record["cell_id"]: _cell_values(record, set_keys) for record in records}
    _unify_numbers(rows.values())
    keys = dict.fromkeys(key for row in rows.values() for key in row)
    varying = [key for key in keys if varies(row.get(key, ABSENT) for row in rows.values())]
    columns = {
        key: [row.get(key, ABSENT) for row in rows.values()]
        for key in sorted(varying, key=axis_sort_key)
    }
    return pd.DataFrame(columns, index=pd.Index(rows, name="cell_id"), dtype=object)


def belongs_to(key: str, axis: str) -> bool:
    """Return True if the key is the axis itself or a key of that option group.

    >>> belongs_to("init.std", "init"), belongs_to("init", "init"), belongs_to("init", "init.std")
    (True, True, False)
    """
    return key == axis or key.startswith(f"{axis}.")


def _cell_values(record: Mapping[str, Any], set_keys: set[tuple[str, Any]]) -> dict[str, Any]:
    """Return a cell's options, and its values of the keys in `set_keys` for these options."""
    values: dict[str, Any] = dict(record["choices"])
    config = dict(flatten(record["config"]))
    explicit = scientific(record["assignment"])
    for key in sorted({key for key, _ in set_keys if "." in key}):
        if (key, _option(record, key)) in set_keys:
            value = explicit.get(key, config.get(key, ABSENT))
            values[key] = value if isinstance(value, str | int | float) else json.dumps(value)
    return values


def _unify_numbers(rows: Iterable[dict[str, Any]]) -> None:
    """Replace equal numbers by the first one seen: `gain=1` and `gain=1.0` are one value."""
    first: dict[Any, Any] = {}
    for row in rows:
        for key, value in row.items():
            row[key] = first.setdefault((key, isinstance(value, bool), value), value)


def _option(record: Mapping[str, Any], key: str) -> Any:
    return record["choices"].get(key.partition(".")[0])
