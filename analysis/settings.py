"""Settings: cells that share everything that matters at initialization, and so their theory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from experiments.config.schema import build_cell

# What decides a network's moments at initialization, seeds aside.
DECIDES = ("data", "scaling", "model", "activation", "init", "probe")


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


def settings_of(frozen: Sequence[Mapping[str, Any]]) -> list[Setting]:
    """Group a sweep's cells (lines of `cells.jsonl`) into settings, in the order of the plan."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for line in frozen:
        groups.setdefault(_key(line["config"]), []).append(line)
    described = [_described(lines[0]) for lines in groups.values()]
    varying = _varying(described)
    settings = []
    for lines, words in zip(groups.values(), described, strict=True):
        own = {key: words[key] for key in varying if key in words}
        label = " ".join(_shown(key, value) for key, value in own.items())
        ids = tuple(line["cell_id"] for line in lines)
        settings.append(Setting(lines[0]["config"], label or "all cells", own, ids))
    return settings


def draws_of(setting: Setting, cells: pd.DataFrame, layers: pd.DataFrame) -> pd.DataFrame:
    """A setting's measurements at initialization, each draw of the weights once.

    Cells that share a weight seed share their draws: those are the same networks, not replicates.

    Parameters
    ----------
    cells, layers
        Tables of the sweep.

    Returns
    -------
    pandas.DataFrame
        Rows of `layers` with `seed_weights`; (seed_weights, draw) numbers the draws.
    """
    mine = cells.loc[cells.cell_id.isin(setting.cell_ids), ["cell_id", "seed_weights"]]
    # Measurement at step 0 doesn't depend on how a cell trains, so any cell of a seed will do,
    # but it must have been measured: a cell that failed before it left no rows.
    measured = layers.loc[(layers.step == 0) & layers.cell_id.isin(mine.cell_id)]
    present = set(measured.cell_id.unique())
    first = mine.loc[mine.cell_id.isin(present)].drop_duplicates("seed_weights")
    return measured.merge(first, on="cell_id")


def _key(config: Mapping[str, Any]) -> str:
    parts = {group: config[group] for group in DECIDES}
    outputs = build_cell(config).objective.n_outputs
    return json.dumps([parts, outputs, config["train"]["dtype"]], sort_keys=True)


def _described(line: Mapping[str, Any]) -> dict[str, Any]:
    """Options, and the keys under them that somebody asked for."""
    words = {group: line["choices"][group] for group in DECIDES}
    asked = {k: v for k, v in line["asked"].items() if "." in k and k.split(".")[0] in DECIDES}
    return words | asked | {"train.dtype": line["config"]["train"]["dtype"]}


def _varying(described: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys that not all settings have with one value, each option followed by its own keys."""
    keys = {key for words in described for key in words}
    varying = [k for k in keys if len({json.dumps(words.get(k)) for words in described}) > 1]
    order = [*DECIDES, "train"]
    return sorted(varying, key=lambda key: (order.index(key.split(".")[0]), key))


def _shown(key: str, value: Any) -> str:
    return str(value) if "." not in key else f"{key.partition('.')[2]}={value}"
