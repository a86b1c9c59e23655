"""How cells ended, as bars: of the whole sweep, and for each value of each axis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from analysis.keys import SEEDS
from analysis.report.column import Column
from experiments.sweep.store.state import DONE, FAILED

MOST_VALUES = 12  # of an axis that is shown


@dataclass(frozen=True)
class Share:
    """Cells of one outcome; `kind` is how the page paints it."""

    outcome: str
    count: int
    kind: str


@dataclass(frozen=True)
class AxisOutcomes:
    """For each value of an axis, how its cells ended."""

    name: str
    bars: list[tuple[str, list[Share]]]


def shares(outcomes: Iterable[str]) -> list[Share]:
    """Cells by outcome, in an order that is the same for every bar.

    >>> [(share.outcome, share.count) for share in shares(["diverged", "ok", "oom", "ok"])]
    [('ok', 2), ('diverged', 1), ('oom', 1)]
    """
    return as_shares(Counter(outcomes))


def as_shares(counts: Mapping[str, int]) -> list[Share]:
    """The same, of cells that somebody has counted."""
    order = [*DONE, *FAILED]
    place = {outcome: n for n, outcome in enumerate(order)} | {"running": 98, "missing": 99}
    ordered = sorted(counts, key=lambda outcome: (place.get(outcome, len(order)), outcome))
    return [Share(outcome, counts[outcome], kind(outcome)) for outcome in ordered]


def kind(outcome: str) -> str:
    """`ok`, `diverged`, `failed`, `interrupted`, `running` or `missing`."""
    if outcome in (*DONE, "running", "missing"):
        return outcome
    return "failed" if outcome in FAILED else "interrupted"


def by_axis(columns: Sequence[Column]) -> list[AxisOutcomes]:
    """How the cells of each value ended, where that differs between the values of an axis."""
    outcomes = next(column.values for column in columns if column.role == "outcome")
    if len(set(outcomes)) < 2:
        return []
    found = []
    for column in columns:
        if column.role != "varies" or column.key in SEEDS:
            continue
        mine: dict[str, list[str]] = {}
        for row, outcome in enumerate(outcomes):
            mine.setdefault(column.shown(row), []).append(outcome)
        if len(mine) <= MOST_VALUES:
            bars = [(value, shares(ended)) for value, ended in mine.items()]
            found.append(AxisOutcomes(column.key, bars))
    return found
