"""Failures, those of one reason together, the first of each with its traceback."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from experiments.sweep.view.failures import Failure

FULL = 3  # failures of one reason that are told in full
NAMED = 20  # and further ones that are named
LONGEST = 20_000  # characters of a traceback: its end counts


@dataclass(frozen=True)
class Told:
    """A failure in full; `traceback` is None where nobody could write one."""

    failure: Failure
    traceback: str | None


@dataclass(frozen=True)
class FailureGroup:
    """Failures of one outcome for one reason."""

    outcome: str
    reason: str
    count: int
    told: tuple[Told, ...]
    named: tuple[Failure, ...]

    @property
    def unnamed(self) -> int:
        """How many more there are."""
        return self.count - len(self.told) - len(self.named)


def grouped(failures: Sequence[Failure]) -> list[FailureGroup]:
    """Failures by outcome and reason, the most frequent first."""
    groups: dict[tuple[str, str], list[Failure]] = {}
    for failure in failures:
        groups.setdefault((failure.outcome, failure.said), []).append(failure)
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    return [
        FailureGroup(
            outcome=outcome,
            reason=reason or "no reason was left",
            count=len(alike),
            told=tuple(Told(failure, _traceback(failure)) for failure in alike[:FULL]),
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
    return failure.reason if failure.reason != failure.said else None
