"""Theory `mean_field`: scalar mean-field theory with the actual activation and weight mean.

For each image, the units of a wide layer are distributed as N(m, v). Weights w = mu + s z (z:
standard normal) give all units the same mean m, which is random. If some mu is not 0, m is
represented by samples, called particles, because its expectation can be 0 while its square grows
(derivations.md, 2.4). With zero-mean weights one particle is exact, and the recursion is Poole et
al. (2016), eq. 3, on q = m^2 + v.

This theory treats all positions of a map as equal. Theory `field` accounts for zero padding, stride
and pooling, and for the dependence of a cotangent on the forward pass if the weights have a mean
(`field.state.SharedCotangent`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fanin.theory.layer_kind import LayerKind, Units
from fanin.theory.layers import NamedLayer
from fanin.theory.moments import LayerMoments, ScalarMoments, scalar_moments
from fanin.theory.network import ParsedNetwork, Stage, parse_network
from fanin.theory.prediction import Prediction
from fanin.theory.quadrature import (
    COARSE,
    EXACT,
    gaussian_nodes,
    max_nodes,
    stratified_normals,
)

State = Float[Tensor, "image repeat particle"]
NODES_AT_ONCE = 2**17  # 1 MB per float64 tensor, which fits the CPU cache


def predict_mean_field(
    model: nn.Module,
    moments: Mapping[str, LayerMoments],
    images: Float[Tensor, "image channel height width"],
    *,
    particles: int = 128,
    repeats: int = 8,
    seed: int = 0,
    layer_kinds: Sequence[LayerKind] = (),
) -> Prediction:
    r"""Predict with mean-field theory.

    Forward, for weights of mean mu and variance s^2, with x the previous layer's output, n the
    fan-in and xi a standard normal that all units share:

    .. math:: m' = n \mu E[x] + \mu_b + \mu \sqrt{n \mathrm{Var}[x]} \xi, \quad
              v' = n s^2 E[x^2] + \sigma_b^2

    Backward, with a = E[d_j^2] and b = E[d_j d_k] of the cotangents, n the fan-out and x' the
    derivative of x, starting from a random cotangent of mean square 1 at the logits (a = 1, b = 0):

    .. math:: c = \mu^2 (n a + n (n - 1) b), \quad
              a' = (n s^2 a + c) E[x'^2], \quad b' = c E[x']^2

    A weight's gradient sums cotangent times input over P positions. The mean square of each product
    is a E[x^2], and b E[x]^2 is the mean of the product of two of them at different positions
    (derivations.md, 4; Schoenholz et al. 2017, eq. 12, for mu = 0).

    Parameters
    ----------
    model
        A sequence of modules. Its weights are not read.
    moments
        Weight and bias moments of each weight layer, by module path.
    images
        Preprocessed inputs, as the network receives them.
    particles
        Number of samples of the common mean m per repeat; must be even. Not used if all weights
        have zero mean.
    repeats
        Number of independent repeats, which give `sampling_se`. Not used if all weights have zero
        mean.
    seed
        Seed of the particles.
    layer_kinds
        Additional layer kinds. They take precedence over the built-in ones.

    Returns
    -------
    Prediction
        Theory `mean_field`: preact_m2, preact_mean, preact_var, vjp_m2, weight_vjp_m2. `preact_var`
        is E[v], the variance between the units of a wide layer at one position. The measured
        variance between n units of a linear layer is smaller by the factor 1 - 1/n; over the
        positions of a map it also contains the variance of m.

    Raises
    ------
    UnpredictableLayer
        A module is neither elementwise nor of a known kind, the model is not a plain sequence, or
        the moments of a layer are unknown.
    """
    net = parse_network(model, images.shape[1:], layer_kinds)
    weights = scalar_moments(moments, (stage.name for stage in net.stages))
    layers = [weights[stage.name] for stage in net.stages]
    inputs = net.first_input(images).flatten(1)
    sampled = any(layer.weight_mean != 0 for layer in layers)
    if sampled:
        shape, order = (len(images), repeats, particles), COARSE
    else:
        shape, order = (len(images), 1, 1), EXACT
    generator = torch.Generator().manual_seed(seed)
    passes = _forward(net, layers, inputs, shape, order, generator)
    cotangents = _backward(net.stages, layers, passes, shape)
    values = {
        "preact_m2": [p.mean.square() + p.var for p in passes],
        "preact_mean": [p.mean for p in passes],
        "preact_var": [p.var for p in passes],
        "vjp_m2": [c.m2 for c in cotangents],
        "weight_vjp_m2": [
            _weight_gradient(*parts) for parts in zip(net.stages, passes, cotangents, strict=True)
        ],
    }
    names = tuple(stage.name for stage in net.stages)
    repeated = {quantity: _over_particles(layers) for quantity, layers in values.items()}
    return Prediction("mean_field", "sampled" if sampled else "exact", names, repeated)


@dataclass(frozen=True)
class UnitMoments:
    """Moments, over units, of the output x and of its derivative dx/dy (y: pre-activation)."""

    mean: Float[Tensor, "*state"]
    m2: Float[Tensor, "*state"]
    var: Float[Tensor, "*state"]
    slope_mean: Float[Tensor, "*state"]
    slope_m2: Float[Tensor, "*state"]


def unit_moments(
    layers: Iterable[NamedLayer],
    mean: Float[Tensor, "*state"],
    var: Float[Tensor, "*state"],
    order: int = EXACT,
) -> UnitMoments:
    """Return the moments of units after some modules, for pre-activations N(mean, var).

    The modules act one after the other on the quadrature nodes of the Gaussian. All positions are
    treated as equal, so pooling changes nothing.

    Parameters
    ----------
    layers
        Modules between two weight layers.
    mean, var
        Mean and variance of the pre-activations, one Gaussian per entry, float64.
    order
        Quadrature nodes per panel.

    Raises
    ------
    UnpredictableLayer
        A module is neither elementwise nor of a known kind.

    Examples
    --------
    >>> zero, one = torch.zeros(1).double(), torch.ones(1).double()
    >>> he = unit_moments([NamedLayer.of("act1", nn.ReLU())], zero, one)
    >>> round(he.m2.item(), 9), round(he.slope_m2.item(), 9)
    (0.5, 0.5)
    """
    layers = list(layers)

    def chunk_moments(mean: Tensor, var: Tensor) -> tuple[Tensor, ...]:
        y, weight = gaussian_nodes(mean, var, order)
        units = Units(y, torch.ones_like(y), weight)
        for layer in layers:
            units = layer.scalar(units)
        return _moments(units)

    chunk = max(1, NODES_AT_ONCE // max_nodes(order))
    chunks = zip(mean.flatten().split(chunk), var.flatten().split(chunk), strict=True)
    parts = [chunk_moments(m, v) for m, v in chunks]
    return UnitMoments(*(torch.cat(part).reshape(mean.shape) for part in zip(*parts, strict=True)))


def _moments(units: Units) -> tuple[Tensor, ...]:
    x, slope = units.value, units.slope
    mean = units.average(x)
    moments = (
        mean,
        units.average(x.square()),
        units.average((x - mean).square()),
        units.average(slope),
        units.average(slope.square()),
    )
    return tuple(moment.squeeze(-1) for moment in moments)


@dataclass(frozen=True)
class _ForwardPass:
    """Moments of a weight layer's inputs, and the mean and variance of its pre-activations."""

    inputs: UnitMoments
    mean: State
    var: State


@dataclass(frozen=True)
class _Cotangent:
    m2: State
    product: State
    """Mean product of the cotangents of two different units."""


def _forward(
    net: ParsedNetwork,
    layers: Sequence[ScalarMoments],
    images: Float[Tensor, "image pixel"],
    shape: tuple[int, int, int],
    order: int,
    generator: torch.Generator,
) -> list[_ForwardPass]:
    inputs = _image_moments(images, shape)
    passes: list[_ForwardPass] = []
    for stage, layer in zip(net.stages, layers, strict=True):
        # The sum over a whole image is known exactly. A patch is treated as pixels chosen at random
        # from the image, just as later layers see random units.
        whole_image = not passes and stage.fan_in == images.shape[1]
        sum_var = torch.zeros(shape).double() if whole_image else stage.fan_in * inputs.var
        xi = stratified_normals(shape, generator)
        mean = _times(stage.fan_in * layer.weight_mean, inputs.mean) + layer.bias_mean
        mean = mean + _times(layer.weight_mean, sum_var.sqrt() * xi)
        var = _times(stage.fan_in * layer.weight_var, inputs.m2) + layer.bias_var
        passes.append(_ForwardPass(inputs, mean, var))
        if stage is not net.stages[-1]:
            inputs = unit_moments(stage.after, mean, var, order)
    return passes


def _image_moments(images: Tensor, shape: tuple[int, int, int]) -> UnitMoments:
    def state(per_image: Tensor) -> Tensor:
        return per_image[:, None, None].expand(shape)

    mean, m2 = images.mean(1), images.square().mean(1)
    var = images.var(1, correction=0)
    ones = torch.ones_like(mean)
    return UnitMoments(state(mean), state(m2), state(var), state(ones), state(ones))


def _backward(
    stages: Sequence[Stage],
    layers: Sequence[ScalarMoments],
    passes: Sequence[_ForwardPass],
    shape: tuple[int, int, int],
) -> list[_Cotangent]:
    m2, product = torch.ones(shape).double(), torch.zeros(shape).double()
    cotangents = [_Cotangent(m2, product)]
    for stage, layer, forward in zip(stages[:0:-1], layers[:0:-1], passes[:0:-1], strict=True):
        n, inputs = stage.outputs_per_input, forward.inputs
        shared = _times(layer.weight_mean**2, n * m2 + n * (n - 1) * product)
        m2 = _times(_times(n * layer.weight_var, m2) + shared, inputs.slope_m2)
        product = _times(shared, inputs.slope_mean.square())
        cotangents.append(_Cotangent(m2, product))
    return cotangents[::-1]


def _weight_gradient(stage: Stage, forward: _ForwardPass, cotangent: _Cotangent) -> State:
    positions, inputs = stage.positions, forward.inputs
    same_position = _times(cotangent.m2, inputs.m2)
    other_positions = _times((positions - 1) * cotangent.product, inputs.mean.square())
    return positions * (same_position + other_positions)


def _times(factor: Tensor | float, x: Tensor) -> Tensor:
    """Multiply, with 0 times infinity equal to 0 (zero weights, saturated units)."""
    factor = torch.as_tensor(factor, dtype=torch.float64)
    return torch.where((factor == 0) | (x == 0), 0.0, factor * x)


def _over_particles(layers: Sequence[State]) -> np.ndarray:
    """Average over particles, [repeat, image, layer]; a mean of inf and -inf becomes inf."""
    states = torch.stack(list(layers), -1)
    average = states.mean(-2)
    opposite_overflows = average.isnan() & ~states.isnan().any(-2)
    return torch.where(opposite_overflows, torch.inf, average).movedim(1, 0).numpy()
