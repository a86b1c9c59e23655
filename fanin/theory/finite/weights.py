"""Weight matrices that are never drawn: what they make of their inputs, and send back, is.

A weight layer meets few vectors: the inputs of some images going forward, their cotangents going
backward. The law of those products is known exactly, so only they are sampled: n normals a layer
instead of n^2 (THEORY.md, section 5.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fanin.inits.weight_shape import WeightShape
from fanin.theory.moments import LayerMoments

Vectors = Float[Tensor, "draw image unit"]


@dataclass(frozen=True)
class DenseWeights:
    """A linear layer's numbers.

    Attributes
    ----------
    mean, std
        Of a weight.
    orthogonal
        Whether rows or columns, whichever are fewer, are orthogonal; else entries are independent
        and taken as Gaussian.
    bias_mean, bias_std
        Of a bias, taken as Gaussian.
    inputs, outputs
        Units.
    """

    mean: float
    std: float
    orthogonal: bool
    bias_mean: float
    bias_std: float
    inputs: int
    outputs: int

    @classmethod
    def of(cls, layer: torch.nn.Linear, moments: LayerMoments) -> DenseWeights:
        """Of a layer, by its declared moments."""
        weight, bias, shape = moments.weight, moments.bias, WeightShape.of(layer)
        return cls(
            mean=float(weight.mean),
            std=float(weight.var) ** 0.5,
            orthogonal=moments.law == "orthogonal",
            bias_mean=float(bias.mean) if layer.bias is not None else 0.0,
            bias_std=float(bias.var) ** 0.5 if layer.bias is not None else 0.0,
            inputs=shape.in_features,
            outputs=shape.out_features,
        )


@dataclass(frozen=True)
class Applied:
    """Draws of a weight layer, of which only what they made of some inputs is known.

    Attributes
    ----------
    made
        Pre-activations, biases included.
    """

    made: Vectors
    weights: DenseWeights
    basis: Float[Tensor, "draw input rank"]
    image: Float[Tensor, "draw larger rank"]

    def pull_back(self, cotangent: Vectors, stream: torch.Generator) -> Vectors:
        r"""W^T d, given what W made of its inputs.

        With Q an orthonormal basis of the inputs and W = mu 1 1^T + s Z, Z^T d is known on Q and
        has its unconditional law on the rest:

        .. math:: Z^T d = Q (Z Q)^T d + (1 - Q Q^T) Z'^T d
        """
        weights, d = self.weights, cotangent.mT
        seen = self.image[:, : weights.outputs]
        along = self.basis @ (seen.mT @ d)
        rest = _unseen_orthogonal if weights.orthogonal else _unseen_independent
        back = weights.std * (along + rest(self, d, stream)).mT
        return back + weights.mean * cotangent.sum(-1, keepdim=True)


def apply(
    weights: DenseWeights,
    inputs: Float[Tensor, "one_or_draw image unit"],
    draws: int,
    stream: torch.Generator,
) -> Applied:
    r"""Draws of y = W x + b for the inputs of some images, jointly.

    Rows of W are independent, so y is Gaussian with mean :math:`\mu \sum_j x_j + \mu_b` and
    covariance :math:`s^2 x_a \cdot x_b + \sigma_b^2` between images a and b. Orthogonal matrices
    keep lengths instead: y is a part of a uniformly rotated x.

    Examples
    --------
    >>> weights = DenseWeights(0.0, 8**-0.5, True, 0.0, 0.0, inputs=4, outputs=8)
    >>> made = apply(weights, torch.ones(1, 1, 4).double(), 3, torch.Generator()).made
    >>> made.square().sum(-1).flatten().tolist()  # std^2 * max(inputs, outputs) = 1
    [4.0, 4.0, 4.0]
    """
    basis, root = torch.linalg.qr(inputs.mT)
    rank = basis.shape[-1]
    if weights.orthogonal:
        larger = max(weights.inputs, weights.outputs)
        image = larger**0.5 * _frames(_normals((draws, larger, rank), stream))
    else:
        image = _normals((draws, weights.outputs, rank), stream)
    made = weights.std * (image[:, : weights.outputs] @ root).mT
    made = made + weights.mean * inputs.sum(-1, keepdim=True) + weights.bias_mean
    if weights.bias_std:
        # One bias for all images.
        made = made + weights.bias_std * _normals((draws, 1, weights.outputs), stream)
    return Applied(made, weights, basis, image)


def _unseen_independent(applied: Applied, d: Tensor, stream: torch.Generator) -> Tensor:
    _, size = torch.linalg.qr(d, mode="r")
    xi = _normals((len(d), applied.weights.inputs, size.shape[-2]), stream)
    return _off(applied.basis, xi) @ size


def _unseen_orthogonal(applied: Applied, d: Tensor, stream: torch.Generator) -> Tensor:
    # As if the matrix were a part of a square one: a rotation of the larger space that carries the
    # inputs to `image`, and whatever is orthogonal to them to anything orthogonal to that.
    inputs, outputs = applied.weights.inputs, applied.weights.outputs
    larger = max(inputs, outputs)
    image = applied.image / larger**0.5
    padded = torch.nn.functional.pad(d, (0, 0, 0, larger - outputs))
    _, size = torch.linalg.qr(_off(image, padded), mode="r")
    xi = _normals((len(d), larger, size.shape[-2]), stream)
    xi = torch.cat([_off(applied.basis, xi[:, :inputs]), xi[:, inputs:]], 1)
    return larger**0.5 * _frames(xi)[:, :inputs] @ size


def _off(basis: Tensor, x: Tensor) -> Tensor:
    return x - basis @ (basis.mT @ x)


def _frames(normals: Float[Tensor, "draw unit rank"]) -> Tensor:
    """Orthonormal columns, uniform over all such: QR's signs are the library's (Mezzadri 2007)."""
    q, r = torch.linalg.qr(normals)
    return q * torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)[:, None]


def _normals(shape: tuple[int, ...], stream: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=stream, dtype=torch.float64)
