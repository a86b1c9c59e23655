"""Activations that torch has as a function only."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Erf(nn.Module):
    """erf(x) = 2/sqrt(pi) times the integral of exp(-t^2) from 0 to x, elementwise.

    A sigmoid between -1 and 1 whose Gaussian moments have a closed form: for z ~ N(0, 1),
    E[erf(sqrt(q) z)^2] = (2/pi) asin(2q / (1 + 2q)) (Williams 1998, eq. 11).

    Examples
    --------
    >>> Erf()(torch.tensor([0.0, 1.0]))
    tensor([0.0000, 0.8427])
    """

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Apply erf; shape and dtype stay as they are."""
        return torch.erf(x)
