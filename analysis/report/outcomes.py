"""Outcomes of cells as bars, and failures grouped by their reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from analysis.report.cells import Column
from experiments.config.groups import SEEDS
from experiments.sweep.status.status import Failure
from experiments.sweep.store.tables import DONE, FAILED

MOST_VALUES = 12  # of an axis that is shown
FULL = 3  # failures of one reason that are told in full
NAMED = 20  # and further ones that are named
LONGEST = 20_000  # characters of a traceback: its end counts


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
    """Count how the cells of each value ended, where that differs between values of an axis."""
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


@dataclass(frozen=True)
class FailureDetail:
    """A failure in full; `traceback` is None where nobody could write one."""

    failure: Failure
    traceback: str | None


@dataclass(frozen=True)
class FailureGroup:
    """Failures of one outcome for one reason."""

    outcome: str
    reason: str
    count: int
    told: tuple[FailureDetail, ...]
    named: tuple[Failure, ...]

    @property
    def unnamed(self) -> int:
        """Number of failures that are not listed."""
        return self.count - len(self.told) - len(self.named)


def grouped(failures: Sequence[Failure]) -> list[FailureGroup]:
    """Failures by outcome and reason, the most frequent first."""
    groups: dict[tuple[str, str], list[Failure]] = {}
    for failure in failures:
        groups.setdefault((failure.outcome, failure.summary), []).append(failure)
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    return [
        FailureGroup(
            outcome=outcome,
            reason=reason or "no reason was left",
            count=len(alike),
            told=tuple(FailureDetail(failure, _traceback(failure)) for failure in alike[:FULL]),
            named=tuple(alike[FULL : FULL + NAMED]),
        )
        for (outcome, reason), alike in ordered
    ]


def _traceback(failure: Failure) -> str | None:
    if failure.traceback is not None:
        with suppress(OSError):  # it was removed since
            text = failure.traceback.read_text(errors="replace").strip()
            return text if len(text) <= LONGEST else f"[...]\n{text[-LONGEST:]}"
    # All of a message of several lines; one of a single line is told already.
    return failure.reason if failure.reason != failure.summary else None
