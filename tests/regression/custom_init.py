"""A user's init schemes, for `init=custom init._target_=custom_init.HalfHe`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class HalfHe:
    """N(0, strength / fan_in), without declared moments."""

    strength: float = 1.0

    def moments(self, weight: Any) -> None:
        return None

    def sample(self, weight: Any, generator: torch.Generator) -> torch.Tensor:
        normal = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        return normal * (self.strength / weight.fan_in) ** 0.5


@dataclass(frozen=True)
class Broken:
    """A scheme that raises an error when it is sampled."""

    def moments(self, weight: Any) -> None:
        return None

    def sample(self, weight: Any, generator: torch.Generator) -> torch.Tensor:
        raise RuntimeError("broken on purpose")
