"""Check and its result: pass or fail by relative differences and tolerances."""

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
    """A relative difference and its tolerance."""

    quantity: str
    value: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """True if the value is within the tolerance; False for NaN."""
        return self.value <= self.tolerance

    @property
    def ratio(self) -> float:
        """Value divided by the tolerance; inf if the value is NaN or should be 0 but is not."""
        if math.isnan(self.value):
            return math.inf
        if self.tolerance == 0:
            return 0.0 if self.value == 0 else math.inf
        return self.value / self.tolerance


@dataclass(frozen=True)
class Comparison:
    """The differences that one check has computed.

    Parameters
    ----------
    differences
        The check passes if all of them pass. Its status is `error` if there are none, unless
        `refused` is set.
    detail
        Additional information.
    refused
        Reason why the project does not support this combination; None if it does.
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
        Those with the largest ratio of difference to tolerance.
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
        """Difference divided by its tolerance; 0 if nothing was compared."""
        if self.difference is None or self.tolerance is None:
            return 0.0
        return Difference(self.quantity, self.difference, self.tolerance).ratio


def run_check(part: str, group: str, case: str, compare: Callable[[], Comparison]) -> Check:
    """Run one check; an exception gives the status `error`."""
    started = time.perf_counter()
    try:
        comparison = compare()
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # raises errors of the device in the check that caused them
    except Exception as error:  # the other checks must still run
        seconds = time.perf_counter() - started
        return Check(part, group, case, "error", seconds, detail=_describe(error))
    seconds = time.perf_counter() - started
    if comparison.refused is not None:
        return Check(part, group, case, "refused", seconds, detail=comparison.refused)
    if not comparison.differences:
        return Check(part, group, case, "error", seconds, detail="nothing was compared")
    worst = max(comparison.differences, key=lambda difference: difference.ratio)
    failed = [diff.quantity for diff in comparison.differences if not diff.passed]
    detail = "; ".join(filter(None, [", ".join(failed), comparison.detail]))
    return Check(
        *(part, group, case, "fail" if failed else "pass", seconds),
        *(worst.value, worst.tolerance, worst.quantity, detail),
    )


def equal(quantity: str, actual: object, expected: object) -> Difference:
    """Return a difference of 0 if two values are equal, else 1."""
    return Difference(quantity, 0.0 if actual == expected else 1.0, 0.0)


def failures(checks: Iterable[Check]) -> list[Check]:
    """Return the checks with status `fail` or `error`."""
    return [check for check in checks if check.status in ("fail", "error")]


def _describe(error: Exception) -> str:
    """Return an error's message and the line of code that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text} ({frame.filename}:{frame.lineno})"
