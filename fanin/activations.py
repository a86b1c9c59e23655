"""Activation modules that `torch.nn` lacks."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Erf(nn.Module):
    """Error function, elementwise: 2/sqrt(pi) times the integral of exp(-t^2) from 0 to x.

    Its Gaussian moments have a closed form: for z ~ N(0, 1), E[erf(sqrt(q) z)^2] = (2/pi) asin(2q /
    (1 + 2q)) (Williams 1998, eq. 11).

    Examples
    --------
    >>> Erf()(torch.tensor([0.0, 1.0]))
    tensor([0.0000, 0.8427])
    """

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return erf(x), in the shape and dtype of `x`."""
        return torch.erf(x)


class Maxout(nn.Module):
    """Maximum over groups of `pieces` linear maps (Goodfellow et al. 2013, section 3).

    Each unit takes the maximum of `pieces` neighbouring channels (or features) of the weight layer
    before it. Models make that layer `pieces` times as wide (see `channels_per_unit`), so a network
    has the same number of units with every activation.

    For two independent N(0, q) pieces, E[max^2] = q.

    Parameters
    ----------
    pieces
        Number of linear maps per unit, 2 or more.

    Raises
    ------
    ValueError
        `pieces` is below 2.

    Examples
    --------
    >>> Maxout(2)(torch.tensor([[1.0, 3.0, -2.0, -5.0]]))
    tensor([[ 3., -2.]])
    """

    def __init__(self, pieces: int = 2) -> None:
        super().__init__()
        if pieces < 2:
            raise ValueError(f"pieces={pieces}: must be 2 or more")
        self.pieces = pieces

    def forward(self, x: Float[Tensor, "batch piece *position"]) -> Tensor:
        """Return a map with one channel per unit."""
        return x.unflatten(1, (-1, self.pieces)).amax(2)

    def extra_repr(self) -> str:
        """Return the parameters that `print` shows."""
        return f"pieces={self.pieces}"


def channels_per_unit(activation: nn.Module) -> int:
    """Return how many channels of the preceding layer one unit of an activation reads.

    This is 1 for elementwise activations. A module that reads more has an attribute `pieces`.

    Examples
    --------
    >>> channels_per_unit(nn.ReLU()), channels_per_unit(Maxout(3))
    (1, 3)
    """
    return int(getattr(activation, "pieces", 1))
