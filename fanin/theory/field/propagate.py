"""One walk through a network, forward and backward.

Moments beyond what float64 holds are carried near 1e160 or 1e-160, and the rest as a logarithm. At
such sizes every activation in use is linear or constant, so that what it makes of a field can be
computed at the size that is held (`_degree`); weight layers and cotangents are linear anyway.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from fanin.seeds import generator
from fanin.theory.elementwise import Function
from fanin.theory.field import weights as weight_layer
from fanin.theory.field.backward import pull_back
from fanin.theory.field.forward import closed_form_of, pass_on
from fanin.theory.field.interlayer import Interlayer
from fanin.theory.field.plan import LayerPlan
from fanin.theory.field.sampling import Sampling
from fanin.theory.field.state import (
    Coherent,
    Cotangent,
    FieldLayer,
    LayerInput,
    LayerWeights,
    Preactivation,
)

WIDEST = 200 * math.log(10)  # of log q, either way: up to here moments are held as they are
HELD = 160 * math.log(10)
Scaled = TypeVar("Scaled", Preactivation, Cotangent, LayerInput)
LENGTHS = ("mean", "expected_mean", "root")  # which scale as y does, and not as its square
GainOf = Callable[[str, tuple[float, float, float]], float]
"""From a layer's name and (a, b, c), where its mean second moment is a g^2 + b g + c at gain g."""


def walk_once(
    plans: Sequence[LayerPlan],
    fed: Float[Tensor, "image channel *position"],
    joint: bool,
    sampling: Sampling,
    repeat: int,
    gain_of: GainOf | None = None,
) -> tuple[FieldLayer, ...]:
    """The layers of a network with their moments, forward and backward.

    Parameters
    ----------
    fed
        What enters the first weight layer.
    joint
        Whether its images are one field.
    repeat
        Which of the independent repeats.
    gain_of
        Asked, layer by layer, for a gain that multiplies its weights before the walk goes on.
    """
    return _backward(_forward(plans, fed, joint, sampling, repeat, gain_of), sampling, repeat)


def is_sampled(layers: Sequence[FieldLayer]) -> bool:
    """Return True if the walk drew anything at random."""
    if any(not layer.weights.centred for layer in layers[1:]):
        return True
    return any(
        closed_form_of(layer.between, layer.made) is None
        and (layer.between.mixes or layer.passed.products is not None)
        for layer in layers
        if layer.between is not None and layer.passed is not None
    )


def _forward(
    plans: Sequence[LayerPlan],
    images: Tensor,
    joint: bool,
    sampling: Sampling,
    repeat: int,
    gain_of: GainOf | None,
) -> list[FieldLayer]:
    together = len(images) if joint else 1
    first = plans[0]
    fed = weight_layer.image_moments(images, first.weights.groups, joint, first.products)
    layers: list[FieldLayer] = []
    for number, plan in enumerate(plans):
        place = (sampling.seed, repeat, number)
        weights = plan.weights
        if gain_of is not None:
            gain = gain_of(plan.name, _in_gain(plan, fed, together))
            weights = weights.scaled(gain)
        thin = plan.cov and number == 0
        root = weight_layer.first_root(plan.taps, weights, images, joint) if thin else None
        made = weight_layer.forward(
            plan.taps,
            weights,
            fed,
            full=plan.cov,
            images=together,
            particles=sampling.particles_for(len(plan.taps.reads)),
            stream=None if plan.between is None else generator("particles", *place),
            root=root,
        )
        made = _rescaled(made)
        layer = FieldLayer(plan.name, plan.taps, weights, fed, made, plan.between)
        if plan.between is not None and number + 1 < len(plans):
            full = plans[number + 1].products
            fed = pass_on(plan.between, made, full=full, samples=sampling.samples, place=place)
            if made.log_scale and _grows(plan.between, exploding=made.log_scale > 0):
                fed = replace(fed, log_scale=made.log_scale)
            layer = replace(layer, passed=fed)
        layers.append(layer)
    return layers


def _grows(between: Interlayer, *, exploding: bool) -> bool:
    """Return True if what follows scales with very large, or very small, pre-activations."""
    if exploding and between.normalizes:
        return False
    return _degree(between.pointwise, exploding) == 1


def _in_gain(plan: LayerPlan, fed: LayerInput, together: int) -> tuple[float, float, float]:
    def at(weights: LayerWeights) -> float:
        made = weight_layer.forward(
            plan.taps, weights, fed, full=False, images=together, particles=0, stream=None
        )
        return float(made.m2.mean())

    weights = plan.weights
    bias = weights.bias_mean**2 + weights.bias_var
    plus, minus = at(weights), at(weights.scaled(-1.0))
    return (plus + minus) / 2 - bias, (plus - minus) / 2, bias


def _backward(layers: list[FieldLayer], sampling: Sampling, repeat: int) -> tuple[FieldLayer, ...]:
    last = layers[-1]
    cotangent = Cotangent(torch.ones_like(last.made.var))
    if last.between is not None:
        points = last.between.images * math.prod(last.between.out_positions)
        received = Cotangent(torch.ones_like(last.made.var[..., :1]).repeat(1, 1, 1, points))
        place = (sampling.seed, repeat, len(layers) - 1)
        cotangent = pull_back(
            last.between, last.made, received, samples=sampling.samples, place=place
        )
        last = replace(last, received=received)
    done = [replace(last, cotangent=cotangent)]
    for number in range(len(layers) - 2, -1, -1):
        above, layer = done[-1], layers[number]
        assert layer.between is not None
        assert above.cotangent is not None
        groups = layer.made.var.shape[2]
        received = weight_layer.backward(above.taps, above.weights, above.cotangent, groups)
        if layer.made.field_shape[1] == 1:
            received = received.over_particles()
        received = _rescaled(received)
        cotangent = pull_back(
            layer.between,
            layer.made,
            received,
            samples=sampling.samples,
            place=(sampling.seed, repeat, number),
        )
        log_scale = received.log_scale
        if layer.between.normalizes and layer.made.log_scale > 0:
            log_scale -= layer.made.log_scale  # it divides by the true size
        cotangent = _rescaled(replace(cotangent, log_scale=log_scale))
        done.append(replace(layer, received=received, cotangent=cotangent))
    return tuple(done[::-1])


def _rescaled(moments: Scaled) -> Scaled:
    """The same moments, of a size that leaves room for squares and sums.

    Examples
    --------
    >>> huge = Cotangent(torch.full((1, 1, 1, 1), 1e250, dtype=torch.float64))
    >>> held = _rescaled(huge)
    >>> round(math.log10(held.m2.item())), round(2 * held.log_scale / math.log(10))
    (160, 90)
    """
    largest = float(moments.m2.max())
    if not 0 < largest < math.inf:
        return moments
    total = math.log(largest) + 2 * moments.log_scale
    if abs(total) <= WIDEST:
        return _times(moments, moments.log_scale, 0.0)
    if abs(math.log(largest)) <= WIDEST and moments.log_scale != 0:
        return moments
    excess = (total - math.copysign(HELD, total)) / 2
    return _times(moments, moments.log_scale - excess, excess)


def _times(moments: Scaled, log_factor: float, log_scale: float) -> Scaled:
    """Moments of e^log_factor times the variable, with another `log_scale`."""
    if log_factor == 0:
        return replace(moments, log_scale=log_scale)
    length = math.exp(log_factor)
    changes: dict[str, Any] = {"log_scale": log_scale}
    for field in fields(moments):
        value = getattr(moments, field.name)
        if isinstance(value, Coherent):
            changes[field.name] = value.each(lambda x: length * (length * x))
        elif isinstance(value, Tensor):
            small = field.name in LENGTHS
            # Twice by the length: its square may be beyond float64 where the moment is not.
            changes[field.name] = length * value if small else length * (length * value)
    return replace(moments, **changes)


def _degree(function: Function, exploding: bool) -> int:
    """Degree of a function in very large, or very small, arguments: linear 1, constant 0.

    Examples
    --------
    >>> _degree(torch.relu, exploding=True), _degree(torch.tanh, exploding=True)
    (1, 0)
    >>> _degree(torch.tanh, exploding=False)
    1
    """
    size = math.exp(HELD / 2 if exploding else -HELD / 2)
    y = size * torch.tensor([-2.0, -1.0, 1.0, 2.0], dtype=torch.float64)
    here, further = (function(x).abs().sum().item() for x in (y, 10 * y))
    return 1 if here == 0 or further / here > 10**0.5 else 0
