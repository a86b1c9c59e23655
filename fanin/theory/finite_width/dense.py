"""Exact simulation of networks of linear layers at finite width, without weight matrices.

Given a layer's inputs, its n units are independent Gaussians. A draw therefore needs n normal
numbers per layer and no matrix, for any activation and any mean of the weights
(docs/appendix/derivations.md, 5.2). The same holds for the backward pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fanin.inits.weight_shape import WeightShape
from fanin.progress import set_part
from fanin.seeds import make_generator
from fanin.theory.elementwise import vjp
from fanin.theory.finite_width.simulate import DrawMoments, concatenate, draw_moments
from fanin.theory.layer_kind import DenseStep, UnpredictableLayer, Vectors
from fanin.theory.layers import BATCH_NORM
from fanin.theory.moments import LayerMoments, moments_of
from fanin.theory.network import ParsedNetwork

MAX_NUMBERS = 2**26  # maximum size of one batch of draws: 512 MB


def is_dense(model: nn.Module, net: ParsedNetwork) -> bool:
    """Return True if all weight layers are linear."""
    modules = dict(model.named_modules())
    return all(isinstance(modules[stage.name], nn.Linear) for stage in net.stages)


def simulate_dense(
    model: nn.Module,
    net: ParsedNetwork,
    moments: Mapping[str, LayerMoments],
    inputs: Float[Tensor, "image pixel"],
    *,
    draws: int = 2000,
    seed: int = 0,
) -> DrawMoments:
    """Simulate draws of a network of linear layers, forward and backward, without weight matrices.

    The simulation is exact for Gaussian weights and biases, and for orthogonal weights. Weights of
    another distribution are treated as Gaussians with the same moments. All images use the same
    network, and each has its own random cotangent at the logits.

    Parameters
    ----------
    model, net, moments
        The network. Its weights are not read.
    inputs
        Input of the first weight layer.
    draws
        Number of networks.

    Returns
    -------
    DrawMoments
        preact_m2, preact_mean, preact_var, vjp_m2 and weight_vjp_m2.

    Raises
    ------
    UnpredictableLayer
        A module that is not elementwise, dropout or a normalization.
    """
    modules = dict(model.named_modules())
    layers = []
    for stage in net.stages:
        module = modules[stage.name]
        assert isinstance(module, nn.Linear)
        layers.append(DenseWeights.of(module, moments_of(moments, stage.name)))
    if inputs.ndim != 2 or inputs.shape[1] != layers[0].in_features:
        raise UnpredictableLayer(
            net.stages[0].name,
            "linear layer on unflattened maps is not supported; put nn.Flatten() before it",
        )
    interlayers = [
        [step for layer in stage.after if (step := layer.dense()) is not None]
        for stage in net.stages[:-1]
    ]
    for named_layer in (layer for stage in net.stages for layer in stage.after):
        if named_layer.kind is BATCH_NORM and len(inputs) == 1:
            raise UnpredictableLayer(
                named_layer.name,
                "batch normalization needs at least two images; there is only one image",
            )
    units = layers[0].in_features + sum(5 * layer.out_features for layer in layers)
    batch_size = max(1, MAX_NUMBERS // (units * len(inputs)))
    batches = []
    for start in range(0, draws, batch_size):
        set_part("network", start, draws, is_share=True)
        stream = make_generator("dense chain", seed, start)
        batches.append(_run(layers, interlayers, inputs, min(batch_size, draws - start), stream))
    return concatenate(batches)


def _run(
    layers: Sequence[DenseWeights],
    interlayers: Sequence[Sequence[DenseStep]],
    inputs: Tensor,
    draws: int,
    stream: torch.Generator,
) -> DrawMoments:
    x, outputs = inputs[None], []
    forward: list[tuple[Tensor, AppliedWeights]] = []
    for index, layer in enumerate(layers):
        applied = apply_weights(layer, x.detach(), draws, stream)
        forward.append((x, applied))
        if index < len(interlayers):
            with torch.enable_grad():
                x = y = applied.preact.requires_grad_()
                for step in interlayers[index]:
                    x = step(x, stream)
            outputs.append((y, x))
    logits = forward[-1][1].preact
    u = torch.randn(logits.shape, generator=stream, dtype=torch.float64)
    d = u * (logits.shape[-1] ** 0.5 / u.norm(dim=-1, keepdim=True))
    cotangents = [d]
    for (y, x), (_, next_applied) in zip(outputs[::-1], forward[:0:-1], strict=True):
        output_cotangent = next_applied.vjp(cotangents[-1], stream)
        cotangents.append(_vjp(x, y, output_cotangent))
    return draw_moments(
        preactivations=[applied.preact.detach() for _, applied in forward],
        cotangents=cotangents[::-1],
        weight_gradients=[
            # A gradient is an outer product, so its mean square is the product of the factors' mean
            # squares.
            d.square().mean(-1) * x.detach().square().mean(-1)
            for (x, _), d in zip(forward, cotangents[::-1], strict=True)
        ],
    )


def _vjp(x: Tensor, y: Tensor, output_cotangent: Tensor) -> Tensor:
    if not x.requires_grad:  # x is constant
        return torch.zeros_like(y)
    return vjp(x, [y], output_cotangent)[0]


@dataclass(frozen=True)
class DenseWeights:
    """Moments and sizes of a linear layer's weights.

    Attributes
    ----------
    mean, std
        Mean and standard deviation of a weight.
    orthogonal
        True if the rows or the columns, whichever are fewer, are orthogonal. Otherwise entries are
        independent and treated as Gaussian.
    bias_mean, bias_std
        Mean and standard deviation of a bias, treated as Gaussian.
    in_features, out_features
        Input and output units.
    """

    mean: float
    std: float
    orthogonal: bool
    bias_mean: float
    bias_std: float
    in_features: int
    out_features: int

    @classmethod
    def of(cls, layer: torch.nn.Linear, moments: LayerMoments) -> DenseWeights:
        """Read a layer's sizes and declared moments."""
        weight, bias, shape = moments.weight, moments.bias, WeightShape.of(layer)
        return cls(
            mean=float(weight.mean),
            std=float(weight.var) ** 0.5,
            orthogonal=moments.dependence != "independent",
            bias_mean=float(bias.mean) if layer.bias is not None else 0.0,
            bias_std=float(bias.var) ** 0.5 if layer.bias is not None else 0.0,
            in_features=shape.in_features,
            out_features=shape.out_features,
        )


@dataclass(frozen=True)
class AppliedWeights:
    """Draws of a layer's weights, represented by the outputs for some inputs.

    Attributes
    ----------
    preact
        Pre-activations, including biases.
    basis, mapped_basis
        Orthonormal basis Q of the inputs, and Z Q, with Z the standardized weights (see `vjp`).
    """

    preact: Vectors
    weights: DenseWeights
    basis: Float[Tensor, "draw input rank"]
    mapped_basis: Float[Tensor, "draw larger rank"]

    def vjp(self, cotangent: Vectors, stream: torch.Generator) -> Vectors:
        """Draw W^T d, conditioned on the outputs of W for its inputs.

        With Q an orthonormal basis of the inputs and W = mu 1 1^T + s Z, Z^T d is known on Q and
        has its unconditional distribution on the complement:

        .. math:: Z^T d = Q (Z Q)^T d + (1 - Q Q^T) Z'^T d

        where Z' is an independent draw of Z.
        """
        weights, d = self.weights, cotangent.mT
        mapped = self.mapped_basis[:, : weights.out_features]
        in_span = self.basis @ (mapped.mT @ d)
        complement = _orthogonal_complement if weights.orthogonal else _independent_complement
        result = weights.std * (in_span + complement(self, d, stream)).mT
        return result + weights.mean * cotangent.sum(-1, keepdim=True)


def apply_weights(
    weights: DenseWeights,
    inputs: Float[Tensor, "one_or_draw image unit"],
    draws: int,
    stream: torch.Generator,
) -> AppliedWeights:
    r"""Draw y = W x + b jointly for the inputs of some images.

    Rows of W are independent, so y is Gaussian with mean :math:`\mu \sum_j x_j + \mu_b` and
    covariance :math:`s^2 x_a \cdot x_b + \sigma_b^2` between images a and b. Orthogonal matrices
    preserve lengths instead: y is a part of a uniformly rotated x.

    Examples
    --------
    >>> weights = DenseWeights(0.0, 8**-0.5, True, 0.0, 0.0, in_features=4, out_features=8)
    >>> y = apply_weights(weights, torch.ones(1, 1, 4).double(), 3, torch.Generator()).preact
    >>> y.square().sum(-1).flatten().tolist()  # std^2 * max(in_features, out_features) = 1
    [4.0, 4.0, 4.0]
    """
    basis, root = torch.linalg.qr(inputs.mT)
    rank = basis.shape[-1]
    if weights.orthogonal:
        n_rows = max(weights.in_features, weights.out_features)
        mapped_basis = n_rows**0.5 * _orthonormalize(_normals((draws, n_rows, rank), stream))
    else:
        mapped_basis = _normals((draws, weights.out_features, rank), stream)
    preact = weights.std * (mapped_basis[:, : weights.out_features] @ root).mT
    preact = preact + weights.mean * inputs.sum(-1, keepdim=True) + weights.bias_mean
    if weights.bias_std:
        # All images share one bias.
        preact = preact + weights.bias_std * _normals((draws, 1, weights.out_features), stream)
    return AppliedWeights(preact, weights, basis, mapped_basis)


def _independent_complement(applied: AppliedWeights, d: Tensor, stream: torch.Generator) -> Tensor:
    _, root = torch.linalg.qr(d, mode="r")
    xi = _normals((len(d), applied.weights.in_features, root.shape[-2]), stream)
    return _project_out(applied.basis, xi) @ root


def _orthogonal_complement(applied: AppliedWeights, d: Tensor, stream: torch.Generator) -> Tensor:
    # Treat the matrix as a part of a square one: a rotation of the larger space that maps the
    # inputs to `mapped_basis` and their orthogonal complement to the complement of `mapped_basis`.
    in_features, out_features = applied.weights.in_features, applied.weights.out_features
    n_rows = max(in_features, out_features)
    mapped_basis = applied.mapped_basis / n_rows**0.5
    padded = torch.nn.functional.pad(d, (0, 0, 0, n_rows - out_features))
    _, root = torch.linalg.qr(_project_out(mapped_basis, padded), mode="r")
    xi = _normals((len(d), n_rows, root.shape[-2]), stream)
    xi = torch.cat([_project_out(applied.basis, xi[:, :in_features]), xi[:, in_features:]], 1)
    return n_rows**0.5 * _orthonormalize(xi)[:, :in_features] @ root


def _project_out(basis: Tensor, x: Tensor) -> Tensor:
    return x - basis @ (basis.mT @ x)


def _orthonormalize(normals: Float[Tensor, "draw unit rank"]) -> Tensor:
    """Return uniformly random orthonormal columns, with corrected signs (Mezzadri 2007)."""
    q, r = torch.linalg.qr(normals)
    return q * torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)[:, None]


def _normals(shape: tuple[int, ...], stream: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=stream, dtype=torch.float64)
