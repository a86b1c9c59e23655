"""Moments of all layers, forward and backward.

Moments beyond the range of float64 are stored near 1e160 or 1e-160 together with a log scale. At
such sizes every supported activation is linear or constant, so its output can be computed from the
stored values (`_degree`). Weight layers and the backward pass are linear.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from fanin.progress import set_part
from fanin.seeds import make_generator
from fanin.theory.elementwise import Function
from fanin.theory.field import weights as weight_layer
from fanin.theory.field.activity import activity, damp
from fanin.theory.field.backward import interlayer_backward
from fanin.theory.field.channel_pairs import ChannelPairs
from fanin.theory.field.forward import closed_form_for, interlayer_forward
from fanin.theory.field.interlayer import Interlayer
from fanin.theory.field.plan import LayerPlan
from fanin.theory.field.sampling import Sampling
from fanin.theory.field.state import (
    Cotangent,
    FieldLayer,
    LayerInput,
    LayerWeights,
    Preactivation,
    SharedCotangent,
)

MAX_ABS_LOG = 200 * math.log(10)  # largest |log E[y^2]| of moments that are stored without a scale
TARGET_LOG = 160 * math.log(10)
Scaled = TypeVar("Scaled", Preactivation, Cotangent, LayerInput)
# Attributes that scale as y; all others scale as y^2.
LINEAR_FIELDS = ("mean", "expected_mean", "root")
GainRule = Callable[[str, tuple[float, float, float]], float]
"""Function of a layer's name and (a, b, c), with mean E[y^2] = a g^2 + b g + c, that returns g."""


def propagate(
    plans: Sequence[LayerPlan],
    inputs: Float[Tensor, "image channel *position"],
    joint: bool,
    sampling: Sampling,
    repeat: int,
    choose_gain: GainRule | None = None,
) -> tuple[FieldLayer, ...]:
    """Compute the moments of all layers, forward and backward.

    Parameters
    ----------
    inputs
        Input of the first weight layer.
    joint
        True if all images share one field.
    repeat
        Index of the independent repeat; part of the random key.
    choose_gain
        Function that returns a gain for each layer's weights, called layer by layer.
    """
    return _backward(
        _forward(plans, inputs, joint, sampling, repeat, choose_gain), sampling, repeat
    )


def is_sampled(layers: Sequence[FieldLayer]) -> bool:
    """Return True if the result depends on random samples."""
    if any(not layer.weights.zero_mean for layer in layers[1:]):
        return True
    return any(
        closed_form_for(layer.interlayer, layer.preact) is None
        and (layer.interlayer.mixes_points or layer.outputs.products is not None)
        for layer in layers
        if layer.interlayer is not None and layer.outputs is not None
    )


def _forward(
    plans: Sequence[LayerPlan],
    images: Tensor,
    joint: bool,
    sampling: Sampling,
    repeat: int,
    choose_gain: GainRule | None,
) -> list[FieldLayer]:
    images_per_field = len(images) if joint else 1
    first = plans[0]
    inputs = weight_layer.image_moments(images, first.weights.groups, joint, first.needs_products)
    layers: list[FieldLayer] = []
    for index, plan in enumerate(plans):
        set_part("layer", index, len(plans))
        key = (sampling.seed, repeat, index)
        weights = plan.weights
        if choose_gain is not None:
            gain = choose_gain(plan.name, _quadratic_in_gain(plan, inputs, images_per_field))
            weights = weights.scaled(gain)
        thin = plan.needs_cov and index == 0
        root = weight_layer.first_layer_root(plan.taps, weights, images, joint) if thin else None
        preact = weight_layer.forward(
            plan.taps,
            weights,
            inputs,
            needs_products=plan.needs_cov,
            images_per_field=images_per_field,
            particles=sampling.particles_for(len(plan.taps.input_index)),
            stream=None if plan.interlayer is None else make_generator("particles", *key),
            root=root,
        )
        preact = _rescale(preact)
        layer = FieldLayer(plan.name, plan.taps, weights, inputs, preact, plan.interlayer)
        if not all(other.weights.zero_mean for other in layers):
            layer = replace(layer, activity=activity(layers[-1], layer))
        if plan.interlayer is not None and index + 1 < len(plans):
            needs_products = plans[index + 1].needs_products
            inputs = interlayer_forward(
                plan.interlayer,
                preact,
                needs_products=needs_products,
                samples=sampling.samples,
                key=key,
            )
            if preact.log_scale and _scales_with_input(
                plan.interlayer, exploding=preact.log_scale > 0
            ):
                inputs = replace(inputs, log_scale=preact.log_scale)
            layer = replace(layer, outputs=inputs)
        layers.append(layer)
    return layers


def _scales_with_input(interlayer: Interlayer, *, exploding: bool) -> bool:
    """Return True if activations are linear in the limit of large, or of small, pre-activations."""
    if exploding and interlayer.normalizes:
        return False
    return _degree(interlayer.pointwise, exploding) == 1


def _quadratic_in_gain(
    plan: LayerPlan, inputs: LayerInput, images_per_field: int
) -> tuple[float, float, float]:
    def mean_m2(weights: LayerWeights) -> float:
        preact = weight_layer.forward(
            plan.taps,
            weights,
            inputs,
            needs_products=False,
            images_per_field=images_per_field,
            particles=0,
            stream=None,
        )
        return float(preact.m2.mean())

    weights = plan.weights
    bias = weights.bias_mean**2 + weights.bias_var
    plus, minus = mean_m2(weights), mean_m2(weights.scaled(-1.0))
    return (plus + minus) / 2 - bias, (plus - minus) / 2, bias


def _backward(layers: list[FieldLayer], sampling: Sampling, repeat: int) -> tuple[FieldLayer, ...]:
    last = layers[-1]
    cotangent = Cotangent(torch.ones_like(last.preact.var))
    if last.interlayer is not None:
        points = last.interlayer.images_per_field * math.prod(last.interlayer.out_positions)
        output_cotangent = Cotangent(
            torch.ones_like(last.preact.var[..., :1]).repeat(1, 1, 1, points)
        )
        key = (sampling.seed, repeat, len(layers) - 1)
        cotangent = interlayer_backward(
            last.interlayer,
            last.preact,
            output_cotangent,
            channel_pairs=ChannelPairs(last.weights.groups),
            samples=sampling.samples,
            key=key,
        )
        last = replace(last, output_cotangent=output_cotangent)
    finished = [replace(last, cotangent=cotangent)]
    for index in range(len(layers) - 2, -1, -1):
        set_part("layer", index, len(layers))
        next_layer, layer = finished[-1], layers[index]
        assert layer.interlayer is not None
        assert next_layer.cotangent is not None
        _, particles, groups = layer.preact.field_shape
        output_cotangent = weight_layer.backward(
            next_layer.taps, next_layer.weights, next_layer.cotangent, groups
        )
        if particles == 1:
            output_cotangent = output_cotangent.mean_over_particles()
        output_cotangent = _rescale(output_cotangent)
        cotangent = interlayer_backward(
            layer.interlayer,
            layer.preact,
            output_cotangent,
            channel_pairs=ChannelPairs.of(layer.weights, next_layer.weights),
            samples=sampling.samples,
            key=(sampling.seed, repeat, index),
        )
        if layer.activity is not None:
            cotangent = damp(cotangent, layer.activity)
        log_scale = output_cotangent.log_scale
        if layer.interlayer.normalizes and layer.preact.log_scale > 0:
            log_scale -= layer.preact.log_scale  # a normalization divides by the true scale
        cotangent = _rescale(replace(cotangent, log_scale=log_scale))
        finished.append(replace(layer, output_cotangent=output_cotangent, cotangent=cotangent))
    return tuple(finished[::-1])


def _rescale(moments: Scaled) -> Scaled:
    """Choose the log scale such that squares and sums of the stored values stay within float64.

    Examples
    --------
    >>> huge = Cotangent(torch.full((1, 1, 1, 1), 1e250, dtype=torch.float64))
    >>> rescaled = _rescale(huge)
    >>> round(math.log10(rescaled.m2.item())), round(2 * rescaled.log_scale / math.log(10))
    (160, 90)
    """
    largest = float(moments.m2.max())
    if not 0 < largest < math.inf:
        return moments
    log_m2 = math.log(largest) + 2 * moments.log_scale
    if abs(log_m2) <= MAX_ABS_LOG:
        return _scale_by(moments, moments.log_scale, 0.0)
    if abs(math.log(largest)) <= MAX_ABS_LOG and moments.log_scale != 0:
        return moments
    excess = (log_m2 - math.copysign(TARGET_LOG, log_m2)) / 2
    return _scale_by(moments, moments.log_scale - excess, excess)


def _scale_by(moments: Scaled, log_factor: float, log_scale: float) -> Scaled:
    """Multiply the variable whose moments are given by e^log_factor, and set `log_scale`."""
    if log_factor == 0:
        return replace(moments, log_scale=log_scale)
    factor = math.exp(log_factor)
    changes: dict[str, Any] = {"log_scale": log_scale}
    for field in fields(moments):
        value = getattr(moments, field.name)
        if isinstance(value, SharedCotangent):
            changes[field.name] = value.map(lambda x: factor * (factor * x))
        elif isinstance(value, Tensor):
            linear = field.name in LINEAR_FIELDS
            # Two multiplications, because the squared factor may overflow where the product does
            # not.
            changes[field.name] = factor * value if linear else factor * (factor * value)
    return replace(moments, **changes)


def _degree(function: Function, exploding: bool) -> int:
    """Return a function's degree at very large, or very small, arguments: 1 linear, 0 constant.

    Examples
    --------
    >>> _degree(torch.relu, exploding=True), _degree(torch.tanh, exploding=True)
    (1, 0)
    >>> _degree(torch.tanh, exploding=False)
    1
    """
    size = math.exp(TARGET_LOG / 2 if exploding else -TARGET_LOG / 2)
    points = size * torch.tensor([-2.0, -1.0, 1.0, 2.0], dtype=torch.float64)
    near, far = (function(x).abs().sum().item() for x in (points, 10 * points))
    return 1 if near == 0 or far / near > 10**0.5 else 0
