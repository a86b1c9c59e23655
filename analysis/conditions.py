"""Settings: cells that share everything that matters at initialization, and so their theory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.load import Results
from experiments.config.groups import CELL_KEYS, PREDICTED_FROM
from experiments.config.identity import scientific
from experiments.sweep.differences import short_label, varying_keys
from experiments.sweep.store.plan_file import read_frozen


@dataclass(frozen=True)
class Setting:
    """Cells that differ only in seeds and in how they train.

    Attributes
    ----------
    config
        The config of one of them.
    label
        What tells this setting from the others of the sweep, as one would type it.
    words
        The same, by key: options (`init`: `normal`) and dotted keys (`init.std`: 0.01).
    cell_ids
        All of its cells.
    """

    config: dict[str, Any]
    label: str
    words: dict[str, Any]
    cell_ids: tuple[str, ...]


def measured_settings(results: Results) -> list[tuple[Setting, pd.DataFrame]]:
    """A sweep's settings with their draws (`draws_of`), those that have been measured."""
    settings = settings_of(list(read_frozen(results.folder).values()))
    draws = draws_of(settings, results.cells, results.layers)
    return [pair for pair in zip(settings, draws, strict=True) if not pair[1].empty]


def settings_of(frozen: Sequence[Mapping[str, Any]]) -> list[Setting]:
    """Group a sweep's cells (lines of `cells.jsonl`) into settings, in the order of the plan."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    described: list[dict[str, Any]] = []
    for line in frozen:
        key = _key(line["config"])
        if key not in groups:
            described.append(_described(line))
        groups.setdefault(key, []).append(line)
    varying = sorted(varying_keys(described), key=key_order)
    settings = []
    for lines, words in zip(groups.values(), described, strict=True):
        own = {key: words[key] for key in varying if key in words}
        label = short_label(own)
        ids = tuple(line["cell_id"] for line in lines)
        settings.append(Setting(lines[0]["config"], label or "all cells", own, ids))
    return settings


def draws_of(
    settings: Sequence[Setting], cells: pd.DataFrame, layers: pd.DataFrame
) -> list[pd.DataFrame]:
    """Each setting's measurements at initialization, each draw of the weights once.

    Cells that share a weight seed share their draws: those are the same networks, not replicates.

    Parameters
    ----------
    cells, layers
        Tables of the sweep.

    Returns
    -------
    list of pandas.DataFrame
        For each setting, rows of `layers` with `seed_weights`; (seed_weights, draw) numbers the
        draws. Empty where none of its cells was measured.
    """
    where = {cell: n for n, setting in enumerate(settings) for cell in setting.cell_ids}
    initial = layers[layers.step == 0]
    # Measurement at step 0 doesn't depend on how a cell trains, so any cell of a seed will do,
    # but it must have been measured: a cell that failed before it left no rows.
    measured = cells.loc[cells.cell_id.isin(initial.cell_id.unique()), ["cell_id", "seed_weights"]]
    measured = measured.assign(setting=measured.cell_id.astype(object).map(where))
    first = measured.drop_duplicates(["setting", "seed_weights"])
    once = initial[initial.cell_id.isin(first.cell_id)].merge(first, on="cell_id")
    groups = dict(iter(once.groupby("setting")))
    none = once.head(0)
    return [groups.get(n, none).drop(columns="setting") for n in range(len(settings))]


def _key(config: Mapping[str, Any]) -> str:
    # Where the data lay is no part of what was measured.
    parts = scientific({group: config[group] for group in PREDICTED_FROM})
    return json.dumps([parts, config["train"]["dtype"]], sort_keys=True)


def _described(line: Mapping[str, Any]) -> dict[str, Any]:
    """Options, and the keys under them that somebody asked for."""
    words = {group: line["choices"][group] for group in PREDICTED_FROM}
    asked = {
        k: v for k, v in line["asked"].items() if "." in k and k.split(".")[0] in PREDICTED_FROM
    }
    dtype = line["config"]["train"]["dtype"]
    return words | scientific(asked) | {"train.dtype": dtype}


def key_order(key: str) -> tuple[int, str]:
    """Sort keys by the place of their group in `CELL_KEYS`, then by name.

    >>> sorted(["seed", "optim.lr", "init.std", "init"], key=key_order)
    ['init', 'init.std', 'optim.lr', 'seed']
    """
    group = key.partition(".")[0]
    return (CELL_KEYS.index(group) if group in CELL_KEYS else len(CELL_KEYS), key)
