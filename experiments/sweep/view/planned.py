"""A sweep's frozen plan, as far as a view of it needs to know."""

from __future__ import annotations

import json
from dataclasses import dataclass

from experiments.sweep.differences import short_labels
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.types import pack_key


@dataclass(frozen=True)
class Planned:
    """Every cell that was ever planned in a folder.

    Attributes
    ----------
    labels
        By cell id, a short label.
    kinds
        By cell id, what it shares with cells that take about as long.
    faults
        What can't be read, for people.
    """

    labels: dict[str, str]
    kinds: dict[str, str]
    faults: tuple[str, ...] = ()


def read_planned(folder: SweepFolder) -> Planned:
    """Read a plan; lines that are spoilt are counted and passed over."""
    try:
        lines = folder.plan.read_bytes().splitlines()
    except FileNotFoundError:
        return Planned({}, {})
    asked, kinds, spoilt = {}, {}, 0
    for text in lines:
        try:
            line = json.loads(text)
            cell, config = line["cell_id"], line["config"]
            asked[cell], kinds[cell] = line["asked"], pack_key(config)
        except (ValueError, TypeError, KeyError):
            spoilt += 1
    faults = (f"{folder.plan}: {spoilt} lines can't be read",) if spoilt else ()
    return Planned(short_labels(asked), kinds, faults)
