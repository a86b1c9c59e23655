"""Suspects and remedies: which cells of a sweep hold a suspect with a remedy, and how they ended.

A sweep's criterion names what it varies, each by the keys that it sets:

    healthy: {init: he_normal, optim.lr: 0.05}
    suspects: {large init: {init: normal, init.std: 1.0}}
    remedies: {nothing: {}, He init: {init: he_normal}}
    instead: {large init: {}}        # remedies that mean something else for a suspect

Its first suspect is the healthy network itself, or all but.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from analysis.conditions import measured_settings
from analysis.figures.query import select
from analysis.load import Results
from analysis.predictions import Predicted, predict_settings
from experiments.schema import shared_keys
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.plan_file import read_frozen
from fanin.errors import FaninError

Change = Mapping[str, Any]
Kind = Literal["own", "in place", "undone", "none"]
DATA = ("data", "data.side")  # what a larger size exchanges; a suspect's other data have more keys
NOTHING = "nothing"  # the remedy that is none
THEORY = "finite_width"
# The suspects that change what theory reads; others start as the first one does.
READ = ("data", "scaling", "model", "activation", "init")


@dataclass(frozen=True)
class Field:
    """One suspect with one remedy.

    Attributes
    ----------
    suspect, remedy
        By name.
    kind
        `own`: cells of its own; `in place`: the remedy is there already, so the suspect alone has
        the same cells; `undone`: the remedy takes the suspect away, and what is left are cells of
        the first suspect's row; `none`: the sweep has no such cells.
    cell_ids
        One a seed.
    """

    suspect: str
    remedy: str
    kind: Kind
    cell_ids: tuple[str, ...]


def combined(base: Change, change: Change) -> dict[str, Any]:
    """Return a network's keys once a change is made to it.

    Another option takes the former option's own keys away, but not those that all options share.

    Examples
    --------
    >>> combined({"init": "normal", "init.std": 1.0, "init.gain": 2.0}, {"init": "he_normal"})
    {'init': 'he_normal', 'init.gain': 2.0}
    """
    return {key: value for key, value in base.items() if not _replaced(key, change)} | {**change}


def _replaced(key: str, change: Change) -> bool:
    group, _, rest = key.partition(".")
    return bool(rest) and group in change and rest.split(".")[0] not in shared_keys(group)


def fields(results: Results, criterion: Mapping[str, Any]) -> list[Field]:
    """Every suspect with every remedy, in the criterion's order.

    Raises
    ------
    FaninError
        The sweep has a cell that is no suspect with a remedy.
    """
    asked = {cell: line["asked"] for cell, line in read_frozen(results.folder).items()}
    own = _keys(criterion)
    there: dict[frozenset[tuple[str, Any]], list[str]] = {}
    for cell in results.cells["cell_id"]:
        mine = {key: value for key, value in asked[cell].items() if key in own}
        there.setdefault(_signature(combined(criterion["healthy"], mine)), []).append(str(cell))
    found = list(_fields(criterion, there))
    named = {cell for field in found for cell in field.cell_ids}
    for cell in results.cells["cell_id"]:
        if cell not in named:
            raise FaninError(f"{results.folder.root}: {cell} is none of the criterion's suspects")
    return found


def _fields(
    criterion: Mapping[str, Any], there: Mapping[frozenset[tuple[str, Any]], Sequence[str]]
) -> Iterator[Field]:
    instead = criterion.get("instead", {})
    first = None
    for suspect, change in criterion["suspects"].items():
        network = combined(criterion["healthy"], change)
        row = {
            remedy: _signature(combined(network, instead.get(suspect, {}).get(remedy, means)))
            for remedy, means in criterion["remedies"].items()
        }
        alone = row[NOTHING]
        first = first or set(row.values())
        for remedy, signature in row.items():
            cells = tuple(there.get(signature, ()))
            kind: Kind = "own"
            if not cells:
                kind = "none"
            elif remedy != NOTHING and signature == alone:
                kind = "in place"
            elif signature in first and alone not in first:
                kind = "undone"
            yield Field(suspect, remedy, kind, cells)


def _keys(criterion: Mapping[str, Any]) -> set[str]:
    changes = [criterion["healthy"], *criterion["suspects"].values()]
    changes += criterion["remedies"].values()
    changes += [each for other in criterion.get("instead", {}).values() for each in other.values()]
    return {key for change in changes for key in change}


def _signature(network: Change) -> frozenset[tuple[str, Any]]:
    return frozenset((key, value) for key, value in network.items() if key not in DATA)


def measured(results: Results) -> pd.DataFrame:
    """Collect how large each cell's logits were, and how it ended.

    Returns
    -------
    pandas.DataFrame
        By `cell_id`: root mean square of the logits over the probe set in the network that trains,
        at the start (`start`), where it was largest (`largest`) and after the last step (`end`;
        NaN of a network that diverged); of what the network hands out at the last probe
        (`handed_out`), and whether a head makes that something else than the logits (`headed`);
        `diverged`; `accuracy`; and of a regression `explained`, the share of the targets' variance
        (NaN else).
    """
    layers, cells = results.layers, results.cells.set_index("cell_id")
    trained = select(layers, draw=0, image=-1)
    logits = select(trained, quantity="preact_m2", layer=last(layers))
    by_step = logits.sort_values("step").groupby("cell_id", observed=True)["value"]
    outputs = select(trained, quantity="output_m2").sort_values("step")
    handed_out = outputs.groupby("cell_id", observed=True)["value"].last()
    diverged = cells["outcome"] == "diverged"
    target = 1 + cells["data.noise"].astype(float) ** 2 if "data.noise" in cells else 1.0
    regression = cells["test_accuracy"].isna() & ~diverged
    return pd.DataFrame(
        {
            "start": by_step.first() ** 0.5,
            "largest": by_step.max() ** 0.5,
            "end": (by_step.last() ** 0.5).reindex(cells.index).where(~diverged),
            "handed_out": handed_out**0.5,
            "headed": cells["head"] != "none",
            "diverged": diverged,
            "accuracy": cells["test_accuracy"].astype(float),
            "explained": (1 - cells["test_loss"].astype(float) / target).where(regression),
        }
    ).reindex(cells.index)


def last(layers: pd.DataFrame) -> int:
    """The number of the layer that makes the logits."""
    return int(layers["layer"].max())


def starts(results: Results, table: pd.DataFrame, criterion: Mapping[str, Any]) -> pd.DataFrame:
    """A row per suspect, alone.

    Theory says of log m, m the second moment of the logits over the probe set in one draw of the
    weights, its mean and standard deviation (theory `finite_width`).

    Returns
    -------
    pandas.DataFrame
        `suspect`; `like`, whose start theory says it has, or "" where it has its own; `values`
        of m, one a draw; `draws`, how many; `log_mean` of them; `log_predicted`, `log_sd` (of one
        draw) and `log_se` (of the mean over draws); `same`, whether the draws are the first
        suspect's but for what the coarser arithmetic rounds.

    Raises
    ------
    FaninError
        Nothing was measured at initialization.
    """
    found = {cell: pair for pair in measured_settings(results) for cell in pair[0].cell_ids}
    rows: list[dict[str, Any]] = []
    for suspect in criterion["suspects"]:
        alone = table[(table["suspect"] == suspect) & (table["remedy"] == NOTHING)].iloc[0]
        if alone["cell_ids"][0] not in found:
            raise FaninError(f"{results.folder.root}: {suspect} was not measured before training")
        setting, draws = found[alone["cell_ids"][0]]
        made = {"setting": setting, "layers": last(draws)}
        rows.append({"suspect": suspect, "values": _logits(draws), **made})
    return _beside_theory(results.folder, rows)


def _logits(draws: pd.DataFrame) -> np.ndarray:
    rows = select(draws, quantity="preact_m2", image=-1, layer=last(draws))
    return rows.sort_values(["seed_weights", "draw"])["value"].to_numpy(float)


def _beside_theory(folder: SweepFolder, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Predict each start that theory tells from those before it, once."""
    distinct: dict[str, dict[str, Any]] = {}
    for row in rows:
        read = str({group: row["setting"].config[group] for group in READ})
        row["like"] = distinct.setdefault(read, row)
    settings = [row["setting"] for row in distinct.values()]
    found = predict_settings(folder, settings, keep_others=True)
    theory = {
        row["suspect"]: _log_moments(folder, predicted)
        for row, predicted in zip(distinct.values(), found, strict=True)
    }
    return pd.DataFrame([_told(row, rows[0], *theory[row["like"]["suspect"]]) for row in rows])


def _log_moments(folder: SweepFolder, predicted: Predicted) -> tuple[float, float]:
    """Mean and standard deviation of log m over draws."""
    frame = predicted.frame
    if frame.empty or THEORY not in set(frame["theory"]):
        raise FaninError(f"{folder.root}: no prediction ({predicted.reason or THEORY})")
    mine = select(frame, theory=THEORY, quantity="preact_m2", image=-1, layer=last(frame))
    row = mine.iloc[0]
    return math.log(row["value"]) - row["log_sd"] ** 2 / 2, float(row["log_sd"])


def _told(
    row: Mapping[str, Any], first: Mapping[str, Any], log_predicted: float, log_sd: float
) -> dict[str, Any]:
    values, like = row["values"], row["like"]
    dtypes = [each["setting"].config["train"]["dtype"] for each in (row, first)]
    coarsest = max(torch.finfo(getattr(torch, dtype)).eps for dtype in dtypes)
    # Each layer rounds its weights, inputs and outputs, by half an epsilon; a square doubles that.
    rounding = 3 * row["layers"] * coarsest
    return {
        "suspect": row["suspect"],
        "like": "" if like is row else like["suspect"],
        "values": values,
        "draws": len(values),
        "log_mean": float(np.log(values).mean()),
        "log_predicted": log_predicted,
        "log_sd": log_sd,
        "log_se": log_sd / math.sqrt(len(values)),
        "same": row is not first
        and len(values) == len(first["values"])
        and bool(np.allclose(values, first["values"], rtol=rounding, atol=0)),
    }
