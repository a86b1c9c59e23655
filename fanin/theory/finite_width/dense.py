"""Exact finite-width law of a net of linear layers: what many drawn nets do, without their weights.

Given a layer's inputs its units are independent Gaussians, so a draw takes n normals a layer and no
matrix, for any activation and weights of any mean (derivations.md, 5.2); so does the way back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fanin.inits.weight_shape import WeightShape
from fanin.seeds import generator
from fanin.theory.finite_width.simulate import Samples, joined, moments_of_draws
from fanin.theory.layer_kind import DenseStep, UnpredictableLayer, Vectors
from fanin.theory.layers import BATCH_NORM
from fanin.theory.moments import LayerMoments, moments_of
from fanin.theory.walk import Walk

HELD = 2**26  # numbers that the draws of one batch may hold: 512 MB


def is_dense(model: nn.Module, net: Walk) -> bool:
    """Return True if all weight layers are linear."""
    modules = dict(model.named_modules())
    return all(isinstance(modules[stage.name], nn.Linear) for stage in net.stages)


def dense_chain(
    model: nn.Module,
    net: Walk,
    moments: Mapping[str, LayerMoments],
    fed: Float[Tensor, "image pixel"],
    *,
    draws: int = 2000,
    seed: int = 0,
) -> Samples:
    """Draw what fresh networks make of some images, and send back, layer by layer.

    Exact for Gaussian weights and biases, and for orthogonal weights; weights of another law are
    taken as Gaussians of the same moments. All images meet the same network, each with a random
    cotangent of its own at the logits.

    Parameters
    ----------
    model, net, moments
        Whose layers; weights are not read.
    fed
        What enters the first weight layer.
    draws
        Networks.

    Returns
    -------
    Samples
        Of preact_m2, preact_mean, preact_var, vjp_m2 and weight_vjp_m2.

    Raises
    ------
    UnpredictableLayer
        A module that is neither elementwise nor dropout nor a normalization.
    """
    modules = dict(model.named_modules())
    layers = []
    for stage in net.stages:
        module = modules[stage.name]
        assert isinstance(module, nn.Linear)
        layers.append(DenseWeights.of(module, moments_of(moments, stage.name)))
    if fed.ndim != 2 or fed.shape[1] != layers[0].inputs:
        raise UnpredictableLayer(
            net.stages[0].name, "a linear layer on the last axis of a map; put nn.Flatten() first"
        )
    between = [
        [step for layer in stage.after if (step := layer.dense()) is not None]
        for stage in net.stages[:-1]
    ]
    for each in (each for stage in net.stages for each in stage.after):
        if each.kind is BATCH_NORM and len(fed) == 1:
            raise UnpredictableLayer(each.name, "batch normalization of one image alone")
    units = layers[0].inputs + sum(5 * layer.outputs for layer in layers)
    size = max(1, HELD // (units * len(fed)))
    batches = []
    for start in range(0, draws, size):
        stream = generator("dense chain", seed, start)
        batches.append(_run(layers, between, fed, min(size, draws - start), stream))
    return joined(batches)


def _run(
    layers: Sequence[DenseWeights],
    between: Sequence[Sequence[DenseStep]],
    fed: Tensor,
    draws: int,
    stream: torch.Generator,
) -> Samples:
    x, passed = fed[None], []
    forward: list[tuple[Tensor, Applied]] = []
    for number, layer in enumerate(layers):
        applied = apply(layer, x.detach(), draws, stream)
        forward.append((x, applied))
        if number < len(between):
            with torch.enable_grad():
                x = y = applied.made.requires_grad_()
                for step in between[number]:
                    x = step(x, stream)
            passed.append((y, x))
    logits = forward[-1][1].made
    u = torch.randn(logits.shape, generator=stream, dtype=torch.float64)
    d = u * (logits.shape[-1] ** 0.5 / u.norm(dim=-1, keepdim=True))
    cotangents = [d]
    for (y, x), (_, above) in zip(passed[::-1], forward[:0:-1], strict=True):
        received = above.pull_back(cotangents[-1], stream)
        cotangents.append(_vjp(x, y, received))
    return moments_of_draws(
        preactivations=[applied.made.detach() for _, applied in forward],
        cotangents=cotangents[::-1],
        weight_gradients=[
            # A gradient is an outer product: its mean square is that of the factors.
            d.square().mean(-1) * x.detach().square().mean(-1)
            for (x, _), d in zip(forward, cotangents[::-1], strict=True)
        ],
    )


def _vjp(x: Tensor, y: Tensor, received: Tensor) -> Tensor:
    if not x.requires_grad:  # a constant
        return torch.zeros_like(y)
    found = torch.autograd.grad(x, y, received, allow_unused=True)[0]
    return torch.zeros_like(y) if found is None else found


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
