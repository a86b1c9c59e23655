"""Expected time of a prediction, from the sizes of the network and the images.

The constants are fitted to the CPU time of a few networks on one core of an AMD EPYC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from torch import Tensor, nn

from fanin.inits.weight_shape import WeightShape, weight_layers
from fanin.progress import Phase
from fanin.theory.finite_width.channel_laws import reason_against_samples, sampled_draws
from fanin.theory.finite_width.limits import has_nonzero_mean, reason_against_first_order
from fanin.theory.finite_width.simulate import affordable_draws
from fanin.theory.layer_kind import LayerKind, UnpredictableLayer
from fanin.theory.moments import LayerMoments
from fanin.theory.network import ParsedNetwork, parse_network

JOINT_PHASE = "correlations between images"
SIMPLE_SECONDS = 0.02  # theories `he` and `mean_field`
POSITION_SECONDS = 1.5e-4  # theory `field`, per image and position of all layers ...
PAIR_SECONDS = 2.5e-6  # ... and for weights of non-zero mean, per image and pair of positions
JOINT_PAIR_SECONDS = 3.5e-7  # joint quantities, per pair of positions of all images ...
JOINT_MEAN_SECONDS = 3.5e-6  # ... and for weights of non-zero mean
FIRST_ORDER_SECONDS = 0.05  # first-order law of a convolutional network, per image and layer ...
FIRST_ORDER_POSITION_SECONDS = 3.5e-4  # ... and in addition per position of all layers
CHANNEL_SECONDS = 9e-8  # sampled channels, per draw, image, channel and position of a layer
SIMULATED_SECONDS = 2e-10  # drawn networks, per draw, image and multiplication of a layer ...
SIMULATED_LAYER_SECONDS = 1e-3  # ... and in addition per draw and layer
DENSE_SECONDS = 0.03  # sampled networks of linear layers, per image and layer
FLOPS = 1e10  # per second, of a forward and backward pass in float64
DRAW_SECONDS = 0.02  # of a measured draw, per layer


def expected_phases(
    model: nn.Module,
    images: Tensor,
    theories: Sequence[str],
    *,
    moments: Mapping[str, LayerMoments] | None = None,
    joint: bool = False,
    draws: int = 0,
    layer_kinds: Sequence[LayerKind] = (),
) -> tuple[list[Phase], str]:
    """Return the phases of a prediction and a description of the work.

    Parameters
    ----------
    model, images, layer_kinds
        Same as for `certify`.
    theories
        Theories in the order in which they run, with repetitions.
    moments
        Moments of each weight layer, by module path. None assumes weights of mean 0.
    joint
        True if the quantities that depend on several images are predicted.
    draws
        Number of measured draws.

    Returns
    -------
    tuple
        The phases with their expected times (empty for a network that cannot be predicted in one
        pass), and a text such as `8 images, 4 layers`.
    """
    layers = weight_layers(model)
    details = f"{_count(len(images), 'image')}, {_count(len(layers), 'layer')}"
    try:
        net = parse_network(model, tuple(images.shape[1:]), layer_kinds)
    except UnpredictableLayer:
        return [], details
    seconds = {
        "he": SIMPLE_SECONDS,
        "mean_field": SIMPLE_SECONDS,
        "field": _field_seconds(net, moments, len(images)),
        "finite_width": _finite_width_seconds(model, net, moments, len(images)),
    }
    phases = [Phase(f"theory {theory}", seconds.get(theory, 0.0)) for theory in theories]
    if joint:
        pairs = sum((len(images) * stage.positions) ** 2 for stage in net.stages)
        per_pair = JOINT_MEAN_SECONDS if _has_nonzero_mean(moments) else JOINT_PAIR_SECONDS
        phases.append(Phase(JOINT_PHASE, per_pair * pairs))
    if draws:
        per_draw = DRAW_SECONDS * len(layers) + 6 * len(images) * _work(model, net) / FLOPS
        phases.append(Phase("draw", draws * per_draw))
        details += f", {_count(draws, 'measured draw')}"
    return phases, details


def _field_seconds(
    net: ParsedNetwork, moments: Mapping[str, LayerMoments] | None, images: int
) -> float:
    seconds = images * POSITION_SECONDS * _positions(net)
    if not _has_nonzero_mean(moments):
        return seconds
    return seconds + images * PAIR_SECONDS * sum(stage.positions**2 for stage in net.stages)


def _finite_width_seconds(
    model: nn.Module, net: ParsedNetwork, moments: Mapping[str, LayerMoments] | None, images: int
) -> float:
    if all(stage.positions == 1 for stage in net.stages):
        return images * DENSE_SECONDS * len(net.stages)
    if moments is not None and reason_against_first_order(model, net, moments) is not None:
        if reason_against_samples(model, net, moments, images) is None:
            units = sum(prod(stage.output_shape) for stage in net.stages)
            return sampled_draws(model, net, images) * images * units * CHANNEL_SECONDS
        draws = affordable_draws(model, net, images)
        per_image = SIMULATED_SECONDS * _work(model, net)
        return draws * (images * per_image + SIMULATED_LAYER_SECONDS * len(net.stages))
    per_layer = FIRST_ORDER_SECONDS + FIRST_ORDER_POSITION_SECONDS * _positions(net)
    return images * len(net.stages) * per_layer


def _has_nonzero_mean(moments: Mapping[str, LayerMoments] | None) -> bool:
    return moments is not None and any(has_nonzero_mean(layer) for layer in moments.values())


def _positions(net: ParsedNetwork) -> int:
    return sum(stage.positions for stage in net.stages)


def _work(model: nn.Module, net: ParsedNetwork) -> int:
    """Return the number of multiplications of a forward pass on one image."""
    layers = weight_layers(model)
    return sum(
        WeightShape.of(layers[stage.name]).fan_in * prod(stage.output_shape) for stage in net.stages
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
