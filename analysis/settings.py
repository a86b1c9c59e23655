"""Settings of a sweep: groups of cells that share everything that matters at initialization."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.load import Results
from experiments.config.groups import CELL_KEYS, PREDICTION_GROUPS
from experiments.config.identity import scientific
from experiments.sweep.differences import short_label, varying_keys


@dataclass(frozen=True)
class Setting:
    """Cells that differ only in seeds and in how they train, and so share one prediction.

    Attributes
    ----------
    config
        Config of the first cell.
    label
        The axis values of this setting in one line, in command-line notation.
    axis_values
        The same values by key: options (`init`: `normal`) and dotted keys (`init.std`: 0.01).
    cell_ids
        Ids of all cells of the setting.
    """

    config: dict[str, Any]
    label: str
    axis_values: dict[str, Any]
    cell_ids: tuple[str, ...]


def measured_settings(results: Results) -> list[tuple[Setting, pd.DataFrame]]:
    """Return the settings that have measurements, each with its draws (`initial_draws`)."""
    settings = group_settings(list(results.plan.values()))
    draws = initial_draws(settings, results.cells, results.layers)
    return [pair for pair in zip(settings, draws, strict=True) if not pair[1].empty]


def group_settings(records: Sequence[Mapping[str, Any]]) -> list[Setting]:
    """Group a sweep's plan records (lines of `cells.jsonl`) into settings, in plan order."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    all_values: list[dict[str, Any]] = []
    for record in records:
        key = _setting_key(record["config"])
        if key not in groups:
            all_values.append(_axis_values(record))
        groups.setdefault(key, []).append(record)
    varying = sorted(varying_keys(all_values), key=axis_sort_key)
    settings = []
    for group, values in zip(groups.values(), all_values, strict=True):
        axis_values = {key: values[key] for key in varying if key in values}
        label = short_label(axis_values)
        cell_ids = tuple(record["cell_id"] for record in group)
        settings.append(Setting(group[0]["config"], label or "all cells", axis_values, cell_ids))
    return settings


def initial_draws(
    settings: Sequence[Setting], cells: pd.DataFrame, layers: pd.DataFrame
) -> list[pd.DataFrame]:
    """Return the measurements of each setting at initialization, each draw of the weights once.

    Cells that share a weight seed have identical networks at initialization. They are not
    replicates, so only one of them is used.

    Parameters
    ----------
    settings
        The settings of the sweep.
    cells, layers
        Tables of the sweep.

    Returns
    -------
    list of pandas.DataFrame
        For each setting, rows of `layers` with `seed_weights`; (seed_weights, draw) identifies a
        draw. Empty for a setting without measured cells.
    """
    setting_of_cell = {cell: n for n, setting in enumerate(settings) for cell in setting.cell_ids}
    initial = layers[layers.step == 0]
    # The measurement at step 0 does not depend on training, so any measured cell of a weight seed
    # can be used. A cell that failed before its measurement has no rows.
    measured = cells.loc[cells.cell_id.isin(initial.cell_id.unique()), ["cell_id", "seed_weights"]]
    measured = measured.assign(setting=measured.cell_id.astype(object).map(setting_of_cell))
    unique = measured.drop_duplicates(["setting", "seed_weights"])
    rows = initial[initial.cell_id.isin(unique.cell_id)].merge(unique, on="cell_id")
    groups = dict(iter(rows.groupby("setting")))
    empty = rows.head(0)
    return [groups.get(n, empty).drop(columns="setting") for n in range(len(settings))]


def _setting_key(config: Mapping[str, Any]) -> str:
    # `scientific` leaves out keys that change no result, such as the data folder.
    parts = scientific({group: config[group] for group in PREDICTION_GROUPS})
    return json.dumps([parts, config["train"]["dtype"]], sort_keys=True)


def _axis_values(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that matter at initialization, and the keys set explicitly in them."""
    options = {group: record["choices"][group] for group in PREDICTION_GROUPS}
    overrides = {
        key: value
        for key, value in record["assignment"].items()
        if "." in key and key.split(".")[0] in PREDICTION_GROUPS
    }
    dtype = record["config"]["train"]["dtype"]
    return options | scientific(overrides) | {"train.dtype": dtype}


def axis_sort_key(key: str) -> tuple[int, str]:
    """Sort keys by the place of their group in `CELL_KEYS`, then by name.

    >>> sorted(["seed", "optim.lr", "init.std", "init"], key=axis_sort_key)
    ['init', 'init.std', 'optim.lr', 'seed']
    """
    group = key.partition(".")[0]
    return (CELL_KEYS.index(group) if group in CELL_KEYS else len(CELL_KEYS), key)
