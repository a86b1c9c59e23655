"""Activations that torch has as a function only, or not at all."""

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


class Maxout(nn.Module):
    """The largest of `pieces` linear maps (Goodfellow et al. 2013, section 3).

    Each unit has `pieces` neighbouring channels (or features) of the weight layer before it to
    itself, which models make that many times as wide (`pieces_of`), so a network has the same
    number of units whatever its activation.

    For two independent N(0, q) pieces E[max^2] = q: what one gains the other loses.

    Parameters
    ----------
    pieces
        Linear maps a unit takes the largest of, 2 or more.

    Examples
    --------
    >>> Maxout(2)(torch.tensor([[1.0, 3.0, -2.0, -5.0]]))
    tensor([[ 3., -2.]])
    """

    def __init__(self, pieces: int = 2) -> None:
        super().__init__()
        if pieces < 2:
            raise ValueError(f"pieces={pieces}: a maximum is taken of 2 or more")
        self.pieces = pieces

    def forward(self, x: Float[Tensor, "batch piece *position"]) -> Tensor:
        """Return a map of as many channels as units."""
        return x.unflatten(1, (-1, self.pieces)).amax(2)

    def extra_repr(self) -> str:
        """Describe the module for `print`."""
        return f"pieces={self.pieces}"


def pieces_of(activation: nn.Module) -> int:
    """Channels of the layer before it that one unit of an activation takes: 1 if elementwise.

    Any module may say so, by an attribute of that name.

    Examples
    --------
    >>> pieces_of(nn.ReLU()), pieces_of(Maxout(3))
    (1, 3)
    """
    return int(getattr(activation, "pieces", 1))
