"""Suspects and remedies: which cells of a sweep hold a suspect with a remedy, and how they ended.

A sweep's criterion names what it varies, each by the keys that it sets:

    healthy: {init: he_normal, optim.lr: 0.05}
    suspects: {large init: {init: normal, init.std: 1.0}}
    remedies: {nothing: {}, He init: {init: he_normal}}
    instead: {large init: {}}        # remedies that mean something else for a suspect

Its first suspect is the healthy network itself, or all but.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from analysis.load import Results
from experiments.schema import common_keys
from experiments.sweep.store.plan_file import read_frozen
from fanin.errors import FaninError

Change = Mapping[str, Any]
Kind = Literal["own", "in place", "undone", "none"]
DATA = ("data", "data.side")  # what a larger size exchanges; a suspect's other data have more keys
NOTHING = "nothing"  # the remedy that is none


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
    """What a network's keys are once a change is made to it.

    Another option takes the former option's own keys away, but not those that all options share.

    Examples
    --------
    >>> combined({"init": "normal", "init.std": 1.0, "init.gain": 2.0}, {"init": "he_normal"})
    {'init': 'he_normal', 'init.gain': 2.0}
    """
    return {key: value for key, value in base.items() if not _replaced(key, change)} | {**change}


def _replaced(key: str, change: Change) -> bool:
    group, _, rest = key.partition(".")
    return bool(rest) and group in change and rest.split(".")[0] not in common_keys(group)


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
    """How large each cell's logits were, and how it ended.

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
    trained = layers[(layers["draw"] == 0) & (layers["image"] == -1)]
    logits = trained[(trained["quantity"] == "preact_m2") & (trained["layer"] == last(layers))]
    by_step = logits.sort_values("step").groupby("cell_id", observed=True)["value"]
    outputs = trained[trained["quantity"] == "output_m2"].sort_values("step")
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
