"""Init scheme for tests with a text in its config that may raise an error with this text."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fanin.inits import HeNormal, Moments, WeightShape


@dataclass(frozen=True)
class HostileInit:
    """He normal weights, or an error that contains `text` if `raises` is True."""

    text: str = ""
    raises: bool = False

    def moments(self, weight: WeightShape) -> Moments:
        """Return the moments of He normal weights."""
        return HeNormal().moments(weight)

    def sample(self, weight: WeightShape, generator: torch.Generator) -> torch.Tensor:
        """Sample He normal weights, or raise."""
        if self.raises:
            raise ValueError(f"it says {self.text}")
        return HeNormal().sample(weight, generator)
