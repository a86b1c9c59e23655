"""A single check: its result, and the rule by which it passes."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch

Status = Literal["pass", "fail", "error", "refused"]


@dataclass(frozen=True)
class Difference:
    """A relative difference and the largest value that is allowed."""

    quantity: str
    value: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """True if the value is within the tolerance; NaN never is."""
        return self.value <= self.tolerance

    @property
    def ratio(self) -> float:
        """The value in units of its tolerance; inf where the value is NaN or must be 0."""
        if math.isnan(self.value):
            return math.inf
        if self.tolerance == 0:
            return 0.0 if self.value == 0 else math.inf
        return self.value / self.tolerance


@dataclass(frozen=True)
class Comparison:
    """Everything that one check compared.

    Parameters
    ----------
    differences
        The check passes if all of them do. With none the check is an error, unless `refused`.
    detail
        What else a reader should know.
    refused
        The reason for which the project itself refuses this combination; None: it does not.
    """

    differences: tuple[Difference, ...] = ()
    detail: str = ""
    refused: str | None = None


@dataclass(frozen=True)
class Check:
    """The result of a check.

    Parameters
    ----------
    part, group, case
        For example `one step`, `optim` and `optim=adam float32`.
    difference, tolerance
        Of the quantity that came closest to its tolerance, or exceeded it most.
    """

    part: str
    group: str
    case: str
    status: Status
    seconds: float
    difference: float | None = None
    tolerance: float | None = None
    quantity: str = ""
    detail: str = ""

    @property
    def ratio(self) -> float:
        """The difference in units of its tolerance; 0 if nothing was compared."""
        if self.difference is None or self.tolerance is None:
            return 0.0
        return Difference(self.quantity, self.difference, self.tolerance).ratio


def run_check(part: str, group: str, case: str, compare: Callable[[], Comparison]) -> Check:
    """Run one check; an exception is the result `error` of this check and stops no other."""
    started = time.perf_counter()
    try:
        made = compare()
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # an error of the device belongs to the check that caused it
    except Exception as error:  # the checks that follow must still run
        seconds = time.perf_counter() - started
        return Check(part, group, case, "error", seconds, detail=_described(error))
    seconds = time.perf_counter() - started
    if made.refused is not None:
        return Check(part, group, case, "refused", seconds, detail=made.refused)
    if not made.differences:
        return Check(part, group, case, "error", seconds, detail="nothing was compared")
    worst = max(made.differences, key=lambda each: each.ratio)
    failed = [each.quantity for each in made.differences if not each.passed]
    detail = "; ".join(filter(None, [", ".join(failed), made.detail]))
    return Check(
        *(part, group, case, "fail" if failed else "pass", seconds),
        *(worst.value, worst.tolerance, worst.quantity, detail),
    )


def same(quantity: str, one: object, other: object) -> Difference:
    """Require two values to be equal; the difference is 0 or 1."""
    return Difference(quantity, 0.0 if one == other else 1.0, 0.0)


def failures(checks: Iterable[Check]) -> list[Check]:
    """Return the checks that failed or ended in an error."""
    return [check for check in checks if check.status in ("fail", "error")]


def _described(error: Exception) -> str:
    """The error's own words and the line of code that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text} ({frame.filename}:{frame.lineno})"
