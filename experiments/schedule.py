"""Learning rate schedules: what the learning rate is multiplied by at each step.

Steps are counted from 0; lengths are shares of the training, so that a schedule means the same
in a short run and a long one.
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
    """A learning rate schedule: an option of `conf/schedule/`."""

    def factor(self, step: int, total: int) -> float:
        """Return the factor of the learning rate at `step` of `total`."""


@dataclass(frozen=True)
class Constant:
    """One learning rate throughout."""

    def factor(self, step: int, total: int) -> float:
        """Return the factor of the learning rate: 1."""
        return 1.0


@dataclass(frozen=True)
class Warmup:
    """Grow linearly over the first share of the training, then stay.

    Parameters
    ----------
    warmup
        Share of the steps in which the learning rate grows.
    """

    warmup: Share = 0.1

    def factor(self, step: int, total: int) -> float:
        """Return the factor of the learning rate at `step` of `total`.

        Examples
        --------
        >>> [Warmup(warmup=0.5).factor(step, total=8) for step in range(5)]
        [0.25, 0.5, 0.75, 1.0, 1.0]
        """
        rising = round(self.warmup * total)
        return 1.0 if step >= rising else (step + 1) / rising


@dataclass(frozen=True)
class Cosine:
    """Fall along half a cosine (Loshchilov & Hutter 2017, eq. 5), after an optional warmup.

    Parameters
    ----------
    warmup
        Share of the steps in which the learning rate grows first.
    final
        The factor that the cosine falls to, reached where step `total` would be.
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
        rising = round(self.warmup * total)
        if step < rising:
            return (step + 1) / rising
        gone = (step - rising) / (total - rising)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * gone)) / 2


@dataclass(frozen=True)
class Step:
    """Multiply by `gamma` at each milestone.

    Parameters
    ----------
    milestones
        Where, as shares of the training.
    gamma
        By how much.
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
