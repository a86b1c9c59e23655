"""Learning rate schedules: the factor of the learning rate at each step.

Steps start at 0. Lengths are fractions of the training, so a schedule has the same shape in short
and long runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Protocol, runtime_checkable

from pydantic import Field

Share = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@runtime_checkable
class Schedule(Protocol):
    """Protocol of a learning rate schedule (an option of `conf/schedule/`)."""

    def factor(self, step: int, total: int) -> float:
        """Return the factor of the learning rate at `step` of `total`."""


@dataclass(frozen=True)
class Constant:
    """Constant learning rate."""

    def factor(self, step: int, total: int) -> float:
        """Return the factor of the learning rate: 1."""
        return 1.0


@dataclass(frozen=True)
class Warmup:
    """Linear warmup, then a constant learning rate.

    Parameters
    ----------
    warmup
        Fraction of the steps in which the learning rate grows.
    """

    warmup: Share = 0.1

    def factor(self, step: int, total: int) -> float:
        """Return the factor of the learning rate at `step` of `total`.

        Examples
        --------
        >>> [Warmup(warmup=0.5).factor(step, total=8) for step in range(5)]
        [0.25, 0.5, 0.75, 1.0, 1.0]
        """
        warmup_steps = round(self.warmup * total)
        return 1.0 if step >= warmup_steps else (step + 1) / warmup_steps


@dataclass(frozen=True)
class Cosine:
    """Cosine decay (Loshchilov & Hutter 2017, eq. 5) after an optional linear warmup.

    Parameters
    ----------
    warmup
        Fraction of the steps in which the learning rate grows.
    final
        Factor at the end of the decay (at step `total`, one after the last).
    """

    warmup: Share = 0.0
    final: Factor = 0.0

    def factor(self, step: int, total: int) -> float:
        """Return the factor of the learning rate at `step` of `total`.

        Examples
        --------
        >>> [round(Cosine().factor(step, total=4), 3) for step in range(4)]
        [1.0, 0.854, 0.5, 0.146]
        """
        warmup_steps = round(self.warmup * total)
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = (step - warmup_steps) / (total - warmup_steps)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class Step:
    """Multiplication of the learning rate by `gamma` at each milestone.

    Parameters
    ----------
    milestones
        Fractions of the training.
    gamma
        Factor at each milestone.
    """

    milestones: tuple[Share, ...] = (0.5, 0.75)
    gamma: Factor = 0.1

    def factor(self, step: int, total: int) -> float:
        """Return the factor of the learning rate at `step` of `total`.

        Examples
        --------
        >>> [Step(gamma=0.5).factor(step, total=4) for step in range(4)]
        [1.0, 1.0, 0.5, 0.25]
        """
        return self.gamma ** sum(step >= round(share * total) for share in self.milestones)
