"""An init scheme of somebody's own, with a word in its config, that may fail and say it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fanin.inits import HeNormal, Moments, WeightShape


@dataclass(frozen=True)
class Outspoken:
    """He's weights; or, where it `raises`, an error that says its `word`."""

    word: str = ""
    raises: bool = False

    def moments(self, weight: WeightShape) -> Moments:
        """He's."""
        return HeNormal().moments(weight)

    def sample(self, weight: WeightShape, generator: torch.Generator) -> torch.Tensor:
        """He's weights."""
        if self.raises:
            raise ValueError(f"it says {self.word}")
        return HeNormal().sample(weight, generator)
