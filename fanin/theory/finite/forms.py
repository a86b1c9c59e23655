"""Symmetric forms on the points of a field: the derivatives of some targets by its covariance.

A form is a matrix, or its diagonal where nothing else matters; the first axis counts targets.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

Forms = Tensor
"""[target, point, point], or diagonals [target, point]."""


def matrices(forms: Forms) -> Tensor:
    """Forms written out."""
    return torch.diag_embed(forms) if forms.ndim == 2 else forms


def symmetric(forms: Tensor) -> Tensor:
    """The symmetric part of matrices."""
    return (forms + forms.mT) / 2


def quadratic(x: Float[Tensor, "sample point"], forms: Forms) -> Float[Tensor, "sample target"]:
    """The forms' values at each sample.

    Examples
    --------
    >>> quadratic(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
    tensor([[5., 4.]])
    """
    if forms.ndim == 2:
        return x.square() @ forms.mT
    values = [((x @ form) * x).sum(-1) for form in forms]
    return torch.stack(values, -1) if values else x.new_zeros(len(x), 0)


def congruent(forms: Tensor, by: Tensor | None) -> Tensor:
    """A form of B^T x as a form of x: B form B^T."""
    return forms if by is None else by @ forms @ by.mT


def diagonal(forms: Tensor) -> Tensor:
    """The diagonals of matrices."""
    return forms.diagonal(dim1=-2, dim2=-1)


def alone(x: Tensor, axes: int) -> Tensor:
    """A field's tensor without its axes of images, particles and parts, one of each."""
    return x.reshape(x.shape[-axes:])
