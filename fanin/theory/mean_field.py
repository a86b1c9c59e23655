"""Rung 2: scalar mean-field theory with the activation and the weight mean that are really there.

A wide layer's units are one Gaussian population N(m, v) for each image. Weights w = mu + s z give
all units the same mean m, itself random; where some mu differs from 0 it is kept as particles,
because its expectation can vanish while its square grows (THEORY.md, section 2.4). With zero-mean
weights one particle is exact, and the recursion is Poole et al. (2016), eq. 3, on q = m^2 + v.

All positions of a map are alike here: zero padding, stride and pooling are the next rung's. So is
what a cotangent owes to the forward pass where weights have a mean (`field.cotangent.Coherent`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fanin.theory.moments import LayerMoments, ScalarMoments, scalar_moments
from fanin.theory.prediction import Prediction
from fanin.theory.quadrature import COARSE, EXACT
from fanin.theory.sampling import stratified_normals
from fanin.theory.units import UnitMoments, unit_moments
from fanin.theory.walk import Stage, Walk, walk

State = Float[Tensor, "image repeat particle"]


def predict_mean_field(
    model: nn.Module,
    moments: Mapping[str, LayerMoments],
    images: Float[Tensor, "image channel height width"],
    *,
    particles: int = 128,
    repeats: int = 8,
    seed: int = 0,
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
    square a E[x^2] and mean product b E[x]^2 (THEORY.md, section 4; Schoenholz et al. 2017, eq. 12,
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

    Returns
    -------
    Prediction
        Rung `mean_field`: preact_m2, preact_mean, preact_var, vjp_m2, weight_vjp_m2. `preact_var`
        is E[v], between the units of a wide layer at one position: among n units of a linear layer
        the measured variance is smaller by a share 1 / n, and over the positions of a map it is
        larger by that of m.

    Raises
    ------
    UnpredictableLayer
        A module that is not elementwise and of no known kind, a model that is no plain sequence,
        or a layer whose moments are unknown.
    """
    net = walk(model, images.shape[1:])
    weights = scalar_moments(moments, (stage.name for stage in net.stages))
    layers = [weights[stage.name] for stage in net.stages]
    fed = net.enter(images).flatten(1)
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
    net: Walk,
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
