"""Expected time of a prediction, from the sizes of the network and the images.

The constants are fitted to the CPU time of a few networks on one core of an AMD EPYC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from math import prod

import torch
from torch import Tensor, nn

from fanin.inits.weight_shape import WeightLayer, WeightShape, weight_layers
from fanin.probes.trace import NORMALIZATIONS, LayerTrace, trace
from fanin.progress import Phase
from fanin.theory.field import couples_images
from fanin.theory.finite_width.channel_laws import reason_against_samples, sampled_draws
from fanin.theory.finite_width.limits import has_nonzero_mean, reason_against_first_order
from fanin.theory.finite_width.simulate import MAX_DRAWS, MAX_WORK, MIN_DRAWS, affordable_draws
from fanin.theory.layer_kind import LayerKind, UnpredictableLayer
from fanin.theory.moments import LayerMoments
from fanin.theory.network import ParsedNetwork, is_sequence, parse_network

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
GRAPH_ROWS = 1.3  # sums and normalizations of a graph per weight layer, besides module norms
GRAPH_POSITION_SECONDS = 5e-4  # theory `field` of a graph, per position of a tensor ...
GRAPH_CUBE_SECONDS = 2.7e-9  # ... and per cube of its positions on the images that share a field
GRAPH_DRAW_SECONDS = 7e-4  # drawn network of a graph, per weight layer


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
    if not is_sequence(model, tuple(images.shape[1:]), layer_kinds):
        graph_details = f"{details}, {_count(draws, 'measured draw')}" if draws else details
        return _graph_phases(model, images, theories), graph_details
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
        phases.append(Phase(JOINT_PHASE, joint_seconds(net, moments, len(images))))
    if draws:
        per_draw = DRAW_SECONDS * len(layers) + 6 * len(images) * _work(model, net) / FLOPS
        phases.append(Phase("draw", draws * per_draw))
        details += f", {_count(draws, 'measured draw')}"
    return phases, details


def joint_seconds(
    net: ParsedNetwork, moments: Mapping[str, LayerMoments] | None, images: int
) -> float:
    """Return the expected time of the quantities that depend on several images."""
    pairs = sum((images * stage.positions) ** 2 for stage in net.stages)
    return pairs * (JOINT_MEAN_SECONDS if _has_nonzero_mean(moments) else JOINT_PAIR_SECONDS)


def _graph_phases(model: nn.Module, images: Tensor, theories: Sequence[str]) -> list[Phase]:
    """Return the phases of a graph, from the output sizes of its weight layers on one image."""
    network = deepcopy(model).eval()
    try:
        with torch.no_grad():
            layers, _ = trace(network, images[:1].to(next(network.parameters())))
        positions = [layer.preactivation[0].numel() // _channels(layer) for layer in layers]
        work = sum(
            WeightShape.of(layer.module).fan_in * layer.preactivation[0].numel()
            for layer in layers
            if isinstance(layer.module, WeightLayer)
        )
    except Exception:  # the user's code; recording the graph explains the error
        return []
    if not layers:
        return []
    n = len(images)
    n_norms = sum(isinstance(module, NORMALIZATIONS) for module in model.modules())
    rows_per_layer = GRAPH_ROWS + n_norms / len(layers)
    fields, size = (1, n) if couples_images(model) else (n, 1)
    field = sum(
        GRAPH_POSITION_SECONDS * size * p + GRAPH_CUBE_SECONDS * (size * p) ** 3 for p in positions
    )
    draws = max(MIN_DRAWS, min(MAX_DRAWS, int(MAX_WORK / (work * n))))
    seconds = {
        "field": fields * rows_per_layer * field,
        "finite_width": draws
        * (4 * n * SIMULATED_SECONDS * work + GRAPH_DRAW_SECONDS * len(layers)),
    }
    return [Phase(f"theory {name}", seconds[name]) for name in theories if name in seconds]


def _channels(layer: LayerTrace) -> int:
    return WeightShape.of(layer.module).out_features if isinstance(layer.module, WeightLayer) else 1


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
