"""Local response normalization, as printed in 2012."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class LocalResponseNorm(nn.Module):
    r"""Divide each channel by the activity of its neighbours at the same position.

    .. math:: b_i = a_i \Big/ \Big(k + \alpha \sum_{j=i-n/2}^{i+n/2} a_j^2\Big)^\beta

    with n = 5, alpha = 1e-4, beta = 0.75, k = 2 (Krizhevsky et al. 2012, section 3.3).
    `torch.nn.LocalResponseNorm` divides alpha by n, which the paper does not, and has no half
    precision on a CPU.

    Examples
    --------
    >>> print(LocalResponseNorm(beta=1.0)(torch.full((1, 1, 1, 1), 100.0)).item())  # 100 / (2 + 1)
    33.33333206176758
    """

    def __init__(
        self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0
    ) -> None:
        super().__init__()
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Tensor:
        """Return the normalized map, of the shape of `x`."""
        before = self.size // 2
        squares = F.pad(x.square(), (0, 0, 0, 0, before, self.size - 1 - before))
        channels = x.shape[1]
        energy = torch.stack([squares[:, i : i + channels] for i in range(self.size)]).sum(0)
        return x / (self.k + self.alpha * energy) ** self.beta
