"""Theory 2: scalar mean-field theory with the activation and the weight mean that are really there.

A wide layer's units are one Gaussian population N(m, v) for each image. Weights w = mu + s z give
all units the same mean m, itself random; where some mu differs from 0 it is kept as particles,
because its expectation can vanish while its square grows (derivations.md, 2.4). With zero-mean
weights one particle is exact, and the recursion is Poole et al. (2016), eq. 3, on q = m^2 + v.

All positions of a map are alike here: zero padding, stride and pooling are the next theory's. So is
what a cotangent owes to the forward pass where weights have a mean (`field.state.Coherent`).
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
from fanin.theory.prediction import Prediction
from fanin.theory.quadrature import (
    COARSE,
    EXACT,
    gaussian_nodes,
    max_nodes,
    stratified_normals,
)
from fanin.theory.network import Stage, ParsedNetwork, parse_network

State = Float[Tensor, "image repeat particle"]
NODES_AT_ONCE = 2**17  # 1 MB per float64 tensor: in cache, whatever the number of states


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
    r"""Predict by mean-field theory.

    Forward, for weights of mean mu and variance s^2, with x the previous layer's output, n the
    fan-in and xi a standard normal that all units share:

    .. math:: m' = n \mu E[x] + \mu_b + \mu \sqrt{n \mathrm{Var}[x]} \xi, \quad
              v' = n s^2 E[x^2] + \sigma_b^2

    Backward, a = E[d_j^2] and b = E[d_j d_k] of the cotangents, from a random one of mean square 1
    at the logits (a = 1, b = 0), with n the fan-out and x' the derivative of x:

    .. math:: c = \mu^2 (n a + n (n - 1) b), \quad
              a' = (n s^2 a + c) E[x'^2], \quad b' = c E[x']^2

    A weight's gradient sums cotangent times input over P positions, whose products have mean
    square a E[x^2] and mean product b E[x]^2 (derivations.md, 4; Schoenholz et al. 2017, eq. 12,
    for mu = 0).

    Parameters
    ----------
    model
        A sequence of modules; its weights are not read.
    moments
        Of each weight layer, by module path.
    images
        As the network is fed them, scaled.
    particles, repeats
        Shared means per repeat (even), and independent repeats, whose scatter gives `sampling_se`.
        Not used where all weights have zero mean.
    seed
        Of the particles.
    layer_kinds
        Kinds of layers beside the built-in ones.

    Returns
    -------
    Prediction
        Theory `mean_field`: preact_m2, preact_mean, preact_var, vjp_m2, weight_vjp_m2. `preact_var`
        is E[v], between the units of a wide layer at one position: among n units of a linear layer
        the measured variance is smaller by a share 1 / n, and over the positions of a map it is
        larger by that of m.

    Raises
    ------
    UnpredictableLayer
        A module that is not elementwise and of no known kind, a model that is no plain sequence,
        or a layer whose moments are unknown.
    """
    net = parse_network(model, images.shape[1:], layer_kinds)
    weights = scalar_moments(moments, (stage.name for stage in net.stages))
    layers = [weights[stage.name] for stage in net.stages]
    fed = net.first_input(images).flatten(1)
    if any(layer.weight_mean != 0 for layer in layers):
        shape, order = (len(images), repeats, particles), COARSE
    else:
        shape, order = (len(images), 1, 1), EXACT
    generator = torch.Generator().manual_seed(seed)
    passes = _forward(net, layers, fed, shape, order, generator)
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
    return Prediction("mean_field", names, repeated)


@dataclass(frozen=True)
class UnitMoments:
    """Moments, over a population of units, of what they pass on: x, and dx/dy for the
    pre-activation y.
    """

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
    """Moments of units with pre-activations N(mean, var) behind the given modules.

    Given one image and the mean that all units share, the pre-activations of a wide layer's units
    are one Gaussian population. The modules act on its quadrature nodes, one after the other. All
    positions are alike here, so pooling leaves the population as it is.

    Parameters
    ----------
    layers
        The modules between two weight layers.
    mean, var
        One Gaussian population per entry, float64.
    order
        Quadrature nodes per panel.

    Raises
    ------
    UnpredictableLayer
        A module that is neither elementwise nor of a kind known here.

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
class _Pass:
    """A weight layer's forward pass: what it was fed, its pre-activations, and what follows."""

    fed: UnitMoments
    mean: State
    var: State


@dataclass(frozen=True)
class _Cotangent:
    m2: State
    product: State
    """Of two different units."""


def _forward(
    net: ParsedNetwork,
    layers: Sequence[ScalarMoments],
    images: Float[Tensor, "image pixel"],
    shape: tuple[int, int, int],
    order: int,
    generator: torch.Generator,
) -> list[_Pass]:
    fed = _image_moments(images, shape)
    passes: list[_Pass] = []
    for stage, layer in zip(net.stages, layers, strict=True):
        # A layer that sees the whole image knows its sum. One that sees a patch is taken to see
        # pixels picked from the image at random, as any layer further up sees random units.
        whole_image = not passes and stage.fan_in == images.shape[1]
        spread = torch.zeros(shape).double() if whole_image else stage.fan_in * fed.var
        xi = stratified_normals(shape, generator)
        mean = _times(stage.fan_in * layer.weight_mean, fed.mean) + layer.bias_mean
        mean = mean + _times(layer.weight_mean, spread.sqrt() * xi)
        var = _times(stage.fan_in * layer.weight_var, fed.m2) + layer.bias_var
        passes.append(_Pass(fed, mean, var))
        if stage is not net.stages[-1]:
            fed = unit_moments(stage.after, mean, var, order)
    return passes


def _image_moments(images: Tensor, shape: tuple[int, int, int]) -> UnitMoments:
    def state(per_image: Tensor) -> Tensor:
        return per_image[:, None, None].expand(shape)

    mean, m2 = images.mean(1), images.square().mean(1)
    var = images.var(1, correction=0)
    one = torch.ones_like(mean)
    return UnitMoments(state(mean), state(m2), state(var), state(one), state(one))


def _backward(
    stages: Sequence[Stage],
    layers: Sequence[ScalarMoments],
    passes: Sequence[_Pass],
    shape: tuple[int, int, int],
) -> list[_Cotangent]:
    m2, product = torch.ones(shape).double(), torch.zeros(shape).double()
    cotangents = [_Cotangent(m2, product)]
    for stage, layer, forward in zip(stages[:0:-1], layers[:0:-1], passes[:0:-1], strict=True):
        n, fed = stage.fan_out, forward.fed
        shared = _times(layer.weight_mean**2, n * m2 + n * (n - 1) * product)
        m2 = _times(_times(n * layer.weight_var, m2) + shared, fed.slope_m2)
        product = _times(shared, fed.slope_mean.square())
        cotangents.append(_Cotangent(m2, product))
    return cotangents[::-1]


def _weight_gradient(stage: Stage, forward: _Pass, cotangent: _Cotangent) -> State:
    positions, fed = stage.positions, forward.fed
    alone = _times(cotangent.m2, fed.m2)
    between = _times((positions - 1) * cotangent.product, fed.mean.square())
    return positions * (alone + between)


def _times(factor: Tensor | float, x: Tensor) -> Tensor:
    """Product in which an exact 0 wins over an overflow: zero weights, a saturated unit."""
    factor = torch.as_tensor(factor, dtype=torch.float64)
    return torch.where((factor == 0) | (x == 0), 0.0, factor * x)


def _over_particles(layers: Sequence[State]) -> np.ndarray:
    """Average over particles: [repeat, image, layer]. Means that overflow both ways are inf."""
    states = torch.stack(list(layers), -1)
    average = states.mean(-2)
    both_ways = average.isnan() & ~states.isnan().any(-2)
    return torch.where(both_ways, torch.inf, average).movedim(1, 0).numpy()
