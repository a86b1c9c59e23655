"""Learnable scalars of residual networks without normalization."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Multiplier(nn.Module):
    """Multiplication of all features by one learnable number, which starts at 1.

    Fixup has one at the end of each residual branch (Zhang et al. 2019, section 3). SkipInit starts
    them at 0 (De & Smith 2020): the init scheme `skipinit` sets them.

    Examples
    --------
    >>> Multiplier()(torch.tensor([2.0, 3.0])).tolist()
    [2.0, 3.0]
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Float[Tensor, "image ..."]) -> Tensor:
        """Return `x` times the scalar."""
        return x * self.scale


class ScalarBias(nn.Module):
    """Addition of one learnable number to all features, which starts at 0.

    Fixup has one before each weight layer and each activation (Zhang et al. 2019, section 3).
    """

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Float[Tensor, "image ..."]) -> Tensor:
        """Return `x` plus the scalar."""
        return x + self.bias
