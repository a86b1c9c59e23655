"""Theory `field`: pre-activations as a Gaussian field over positions.

For a given image, the pre-activations of a wide layer's channels are independent samples of one
Gaussian field over positions, around a mean map that all channels share. Weight layers map its
moments exactly. The modules between two weight layers are computed in closed form, by quadrature or
by sampling.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fanin.theory.field.activity import zero_share
from fanin.theory.field.plan import LayerPlan, plan_layers
from fanin.theory.field.propagate import GainRule, is_sampled, propagate
from fanin.theory.field.sampling import Quantities, Sampling, is_precise
from fanin.theory.field.state import MAX_LOG, FieldLayer
from fanin.theory.field.weights import MAX_MEAN_MAPS
from fanin.theory.layer_kind import LayerKind
from fanin.theory.layers import find_kind
from fanin.theory.moments import LayerMoments
from fanin.theory.network import ParsedNetwork, parse_network
from fanin.theory.prediction import Prediction

# Numbers in one covariance of every layer, over all images of a chunk: 64 MB. A pass keeps up to 12
# such sets (inputs, pre-activations, cotangents). A chunk of one image may have more.
MAX_NUMBERS = 2**23


@dataclass(frozen=True)
class FieldResult:
    """Moments of all layers of a network.

    Attributes
    ----------
    passes
        The weight layers with their moments, once per repeat. The repeats are independent if the
        theory samples; otherwise there is one.
    n_images
        Number of images.
    joint
        True if all images share one field, side by side along its points.
    """

    passes: tuple[tuple[FieldLayer, ...], ...]
    n_images: int
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
    """Predict moments with theory `field`.

    Parameters
    ----------
    model
        A sequence of modules. Its weights are not read.
    moments
        Moments of each weight layer, by module path.
    images
        Network inputs, already scaled.
    joint
        Compute all images as one field. The moments stay the same. Layers that couple images
        (`MeanOnly`, batch normalization) always use one field.
    sampling
        Options of the sampling, which is used where no closed form exists.
    layer_kinds
        Additional layer kinds.

    Returns
    -------
    Prediction
        Theory `field`: preact_m2, preact_mean, preact_var, act_zero_fraction (NaN where no
        activation follows), vjp_m2, weight_vjp_m2.

    Raises
    ------
    UnpredictableLayer
        Theory `field` has no formula for a module, or a layer needs covariances of too many points.
    """
    sampling = sampling or Sampling()
    joint = joint or couples_images(model, layer_kinds)
    net = parse_network(model, images.shape[1:], layer_kinds)
    inputs = net.first_input(images)
    plans = _plan_network(model, net, moments, inputs, joint, keep_covariances=False)
    chunks = _chunks(inputs, plans, joint, sampling)
    repeats: list[Quantities] = []
    parts: list[Quantities] = [{} for _ in chunks]
    sampled = set(range(len(chunks)))
    while sampled and len(repeats) < sampling.repeats and not is_precise(repeats):
        for index in tuple(sampled):
            parts[index], is_random = _run_pass(
                plans, chunks[index], joint, sampling, repeat=len(repeats)
            )
            if not is_random:  # all repeats are equal
                sampled.remove(index)
        repeats.append({q: np.concatenate([part[q] for part in parts]) for q in parts[0]})
    names = tuple(stage.name for stage in net.stages)
    method = "sampled" if len(repeats) > 1 else "exact"
    return Prediction(
        "field", method, names, {q: np.stack([r[q] for r in repeats]) for q in repeats[0]}
    )


def propagate_field(
    model: nn.Module,
    moments: Mapping[str, LayerMoments],
    images: Float[Tensor, "image channel height width"],
    *,
    joint: bool = False,
    sampling: Sampling | None = None,
    keep_covariances: bool = False,
    choose_gain: GainRule | None = None,
    layer_kinds: Sequence[LayerKind] = (),
) -> FieldResult:
    """Compute maps, covariances and cotangents of all layers.

    Parameters
    ----------
    model, moments, images, joint, sampling, layer_kinds
        As in `predict_field`.
    keep_covariances
        Compute covariances of all layers, even if no moment depends on them.
    choose_gain
        Function that returns a gain for each layer's weights, called layer by layer during the
        forward pass.

    Returns
    -------
    FieldResult
        The layers with their moments.

    Raises
    ------
    UnpredictableLayer
        As in `predict_field`.
    """
    sampling = sampling or Sampling()
    joint = joint or couples_images(model, layer_kinds)
    net = parse_network(model, images.shape[1:], layer_kinds)
    inputs = net.first_input(images)
    plans = _plan_network(model, net, moments, inputs, joint, keep_covariances)
    passes = _run_passes(plans, inputs, joint, sampling, choose_gain)
    return FieldResult(tuple(passes), len(images), joint)


def per_image(
    x: Float[Tensor, "image particle group point"], images_per_field: int
) -> Float[Tensor, " image"]:
    """Average over particles, groups and the points of each image."""
    return x.unflatten(-1, (images_per_field, -1)).mean((1, 2, 4)).flatten()


def couples_images(model: nn.Module, layer_kinds: Sequence[LayerKind] = ()) -> bool:
    """Return True if the images of a batch change each other's moments (batch normalization)."""
    return any(find_kind(module, layer_kinds).couples_images for module in model.modules())


def _plan_network(
    model: nn.Module,
    net: ParsedNetwork,
    moments: Mapping[str, LayerMoments],
    inputs: Tensor,
    joint: bool,
    keep_covariances: bool,
) -> tuple[LayerPlan, ...]:
    images_per_field = len(inputs) if joint else 1
    return plan_layers(
        model,
        net,
        moments,
        inputs.shape[1:],
        images_per_field=images_per_field,
        keep_covariances=keep_covariances or joint,
    )


def _chunks(
    inputs: Tensor, plans: Sequence[LayerPlan], joint: bool, sampling: Sampling
) -> Sequence[Tensor]:
    if joint:
        return [inputs]
    zero_mean = all(plan.weights.zero_mean for plan in plans)
    sizes = [
        (len(plan.taps.input_index), min(plan.weights.groups, MAX_MEAN_MAPS))
        for plan in plans
        if plan.needs_cov
    ]
    numbers_per_image = sum(
        n**2 * (1 if zero_mean else maps * sampling.particles_for(n)) for n, maps in sizes
    )
    return inputs.split(max(1, MAX_NUMBERS // max(numbers_per_image, 1)))


def _run_pass(
    plans: Sequence[LayerPlan], inputs: Tensor, joint: bool, sampling: Sampling, repeat: int
) -> tuple[Quantities, bool]:
    """Return the quantities of one repeat, and True if they depend on random samples."""
    layers = propagate(plans, inputs, joint, sampling, repeat)
    return _quantities(layers, len(inputs) if joint else 1), is_sampled(layers)


def _run_passes(
    plans: Sequence[LayerPlan],
    inputs: Tensor,
    joint: bool,
    sampling: Sampling,
    choose_gain: GainRule | None,
) -> Iterator[tuple[FieldLayer, ...]]:
    # A generator, because one pass may use gigabytes.
    repeats = 1
    repeat = 0
    while repeat < repeats:
        layers = propagate(plans, inputs, joint, sampling, repeat, choose_gain)
        repeats = sampling.repeats if is_sampled(layers) else 1
        yield layers
        del layers
        repeat += 1


def _quantities(layers: Sequence[FieldLayer], images_per_field: int) -> Quantities:
    columns = [_layer_quantities(layer, images_per_field) for layer in layers]
    return {quantity: np.stack([c[quantity] for c in columns], -1) for quantity in columns[0]}


def _layer_quantities(layer: FieldLayer, images_per_field: int) -> Quantities:
    preact, cotangent = layer.preact, layer.cotangent
    assert cotangent is not None
    m2 = per_image(preact.m2, images_per_field)
    grand_mean_square = preact.grand_mean_square.mean((1, 2)).flatten()
    zeros = torch.full_like(m2, torch.nan)
    if layer.activation is not None:
        zeros = per_image(zero_share(layer.activation, preact, layer.activity), images_per_field)
    preact_scale, cotangent_scale = preact.log_scale, cotangent.log_scale
    gradient = _weight_gradient(layer, images_per_field)
    quantities = {
        "preact_m2": _unscaled(m2, 2 * preact_scale),
        "preact_mean": _unscaled(per_image(preact.expected_mean, images_per_field), preact_scale),
        "preact_var": _unscaled((m2 - grand_mean_square).clamp(min=0), 2 * preact_scale),
        "act_zero_fraction": zeros,
        "vjp_m2": _unscaled(per_image(cotangent.m2, images_per_field), 2 * cotangent_scale),
        "weight_vjp_m2": _unscaled(gradient, 2 * (cotangent_scale + layer.inputs.log_scale)),
    }
    return {name: value.numpy() for name, value in quantities.items()}


def _unscaled(x: Tensor, log_scale: float) -> Tensor:
    """Multiply by e^log_scale; the result is 0 or inf beyond the range of float64."""
    half = math.exp(max(min(log_scale / 2, MAX_LOG), -MAX_LOG))
    return x if log_scale == 0 else torch.where(x == 0, x, half * (half * x))


def _weight_gradient(layer: FieldLayer, images_per_field: int) -> Float[Tensor, " image"]:
    cotangent, taps = layer.cotangent, layer.taps
    assert cotangent is not None
    inputs = layer.inputs.for_groups(layer.preact.field_shape[2])
    if cotangent.products is None:
        gradient = taps.gradient_m2(cotangent.m2, inputs.m2, images_per_field)
    else:
        assert inputs.products is not None
        gradient = taps.gradient_m2_from_products(
            cotangent.products, inputs.products, images_per_field
        )
    return gradient.mean((1, 2)).flatten()
