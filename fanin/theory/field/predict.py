"""Theory 3: the Gaussian field.

Given an image, the pre-activations of a wide layer's channels are independent draws of one Gaussian
field over positions, around a mean map that all channels share. Weight layers map its moments
exactly; whatever stands between two of them is run on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fanin.theory.field.forward import zero_fraction
from fanin.theory.field.plan import LayerPlan, plan
from fanin.theory.field.propagate import GainOf, is_sampled, walk_once
from fanin.theory.field.sampling import Sampling
from fanin.theory.field.state import MOST_LOG, FieldLayer
from fanin.theory.layer_kind import LayerKind
from fanin.theory.layers import find_kind
from fanin.theory.moments import LayerMoments
from fanin.theory.prediction import Prediction
from fanin.theory.walk import Walk, walk

MEMORY = 2**26  # numbers in one layer's covariances of all images that are walked at once
Reported = dict[str, np.ndarray]


@dataclass(frozen=True)
class FieldResult:
    """Walks through a network: independent repeats where the theory samples, else one.

    Attributes
    ----------
    passes
        For each repeat the weight layers, forward and backward moments in place.
    images
        How many images.
    joint
        Whether they are one field, side by side along its points.
    """

    passes: tuple[tuple[FieldLayer, ...], ...]
    images: int
    joint: bool


def predict_field(
    model: nn.Module,
    moments: Mapping[str, LayerMoments],
    images: Float[Tensor, "image channel height width"],
    *,
    joint: bool = False,
    sampling: Sampling | None = None,
    layer_kinds: Sequence[LayerKind] = (),
) -> Prediction:
    """Predict by the Gaussian field.

    Parameters
    ----------
    model
        A sequence of modules; its weights are not read.
    moments
        Of each weight layer, by module path.
    images
        As the network is fed them, scaled.
    joint
        Take all images as one field. Moments are the same; layers that make images act
        on each other (`MeanOnly`, batch normalization) are always taken jointly.
    sampling
        How to sample where no closed form exists.
    layer_kinds
        Kinds of layers beside the built-in ones.

    Returns
    -------
    Prediction
        Theory `field`: preact_m2, preact_mean, preact_var, act_zero_fraction (NaN where no
        activation follows), vjp_m2, weight_vjp_m2.

    Raises
    ------
    UnpredictableLayer
        A module without a field theory; covariances over too many points.
    """
    sampling = sampling or Sampling()
    joint = joint or _coupled(model, layer_kinds)
    net = walk(model, images.shape[1:], layer_kinds)
    fed = net.enter(images)
    plans = _plans(model, net, moments, fed, joint, everywhere=False)
    found = [
        [
            _reported(layers, len(chunk) if joint else 1)
            for layers in _passes(plans, chunk, joint, sampling, None)
        ]
        for chunk in _chunks(fed, plans, joint, sampling)
    ]
    repeats = max(len(passes) for passes in found)
    names = tuple(stage.name for stage in net.stages)
    return Prediction("field", names, _stacked(found, repeats))


def walk_field(
    model: nn.Module,
    moments: Mapping[str, LayerMoments],
    images: Float[Tensor, "image channel height width"],
    *,
    joint: bool = False,
    sampling: Sampling | None = None,
    everywhere: bool = False,
    gain_of: GainOf | None = None,
    layer_kinds: Sequence[LayerKind] = (),
) -> FieldResult:
    """Walk through a network and keep everything: maps, covariances, cotangents.

    Parameters
    ----------
    model, moments, images, joint, sampling, layer_kinds
        As in `predict_field`.
    everywhere
        Keep covariances of all layers, also where no moment depends on them.
    gain_of
        Asked, layer by layer, for a gain that multiplies its weights before the walk goes on.

    Raises
    ------
    UnpredictableLayer
        As `predict_field`.
    """
    sampling = sampling or Sampling()
    joint = joint or _coupled(model, layer_kinds)
    net = walk(model, images.shape[1:], layer_kinds)
    fed = net.enter(images)
    plans = _plans(model, net, moments, fed, joint, everywhere)
    passes = _passes(plans, fed, joint, sampling, gain_of)
    return FieldResult(tuple(passes), len(images), joint)


def per_image(
    x: Float[Tensor, "image particle group point"], together: int
) -> Float[Tensor, " image"]:
    """Average over particles, groups and each image's points; `together` images share a field."""
    return x.unflatten(-1, (together, -1)).mean((1, 2, 4)).flatten()


def _coupled(model: nn.Module, layer_kinds: Sequence[LayerKind]) -> bool:
    return any(find_kind(module, layer_kinds).couples_images for module in model.modules())


def _plans(
    model: nn.Module,
    net: Walk,
    moments: Mapping[str, LayerMoments],
    fed: Tensor,
    joint: bool,
    everywhere: bool,
) -> tuple[LayerPlan, ...]:
    together = len(fed) if joint else 1
    return plan(model, net, moments, fed.shape[1:], images=together, everywhere=everywhere or joint)


def _chunks(
    fed: Tensor, plans: Sequence[LayerPlan], joint: bool, sampling: Sampling
) -> Sequence[Tensor]:
    if joint:
        return [fed]
    centred = all(each.weights.centred for each in plans)
    points = [len(each.taps.reads) for each in plans if each.cov]
    held = max((n**2 * (1 if centred else sampling.particles_for(n)) for n in points), default=1)
    return fed.split(max(1, MEMORY // held))


def _passes(
    plans: Sequence[LayerPlan],
    fed: Tensor,
    joint: bool,
    sampling: Sampling,
    gain_of: GainOf | None,
) -> Iterator[tuple[FieldLayer, ...]]:
    # One by one: a pass may hold gigabytes.
    repeats = 1
    repeat = 0
    while repeat < repeats:
        layers = walk_once(plans, fed, joint, sampling, repeat, gain_of)
        repeats = sampling.repeats if is_sampled(layers) else 1
        yield layers
        del layers
        repeat += 1


def _reported(layers: Sequence[FieldLayer], together: int) -> Reported:
    columns = [_of_layer(layer, together) for layer in layers]
    return {quantity: np.stack([c[quantity] for c in columns], -1) for quantity in columns[0]}


def _of_layer(layer: FieldLayer, together: int) -> Reported:
    made, cotangent = layer.made, layer.cotangent
    assert cotangent is not None
    m2 = per_image(made.m2, together)
    grand = made.grand_square.mean((1, 2)).flatten()
    zeros = torch.full_like(m2, torch.nan)
    if layer.activation is not None:
        zeros = per_image(zero_fraction(layer.activation, made), together)
    forward, backward, fed = made.log_scale, cotangent.log_scale, layer.fed.log_scale
    gradient = _weight_gradient(layer, together)
    quantities = {
        "preact_m2": _true(m2, 2 * forward),
        "preact_mean": _true(per_image(made.expected_mean, together), forward),
        "preact_var": _true((m2 - grand).clamp(min=0), 2 * forward),
        "act_zero_fraction": zeros,
        "vjp_m2": _true(per_image(cotangent.m2, together), 2 * backward),
        "weight_vjp_m2": _true(gradient, 2 * (backward + fed)),
    }
    return {name: value.numpy() for name, value in quantities.items()}


def _true(x: Tensor, log_scale: float) -> Tensor:
    """e^log_scale times x: 0 or inf where float64 ends."""
    half = math.exp(max(min(log_scale / 2, MOST_LOG), -MOST_LOG))
    return x if log_scale == 0 else torch.where(x == 0, x, half * (half * x))


def _weight_gradient(layer: FieldLayer, together: int) -> Float[Tensor, " image"]:
    cotangent, taps = layer.cotangent, layer.taps
    assert cotangent is not None
    fed = layer.fed.grouped(layer.weights.groups)
    if cotangent.products is None:
        found = taps.gradient_of_variances(cotangent.m2, fed.m2, together)
    else:
        assert fed.products is not None
        found = taps.gradient_of_covariances(cotangent.products, fed.products, together)
    return found.mean((1, 2)).flatten()


def _stacked(found: Sequence[Sequence[Reported]], repeats: int) -> dict[str, np.ndarray]:
    """[repeat, image, layer], chunks of images joined; what was not sampled is repeated."""
    return {
        quantity: np.stack(
            [
                np.concatenate([passes[min(r, len(passes) - 1)][quantity] for passes in found])
                for r in range(repeats)
            ]
        )
        for quantity in found[0][0]
    }
