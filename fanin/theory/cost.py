"""Expected time of a prediction, from the sizes of the network and the images.

The constants are fitted to the CPU time of six networks on one core of an AMD EPYC. A network that
must be simulated may take longer.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fanin.inits.weight_shape import WeightShape, weight_layers
from fanin.progress import Phase
from fanin.theory.layer_kind import LayerKind, UnpredictableLayer
from fanin.theory.network import ParsedNetwork, parse_network

SIMPLE_SECONDS = 0.02  # theories `he` and `mean_field`
POSITION_SECONDS = 1.5e-4  # theory `field`, per image and position of all layers
FIRST_ORDER_SECONDS = 0.05  # first-order law of a convolutional network, per image and layer ...
FIRST_ORDER_POSITION_SECONDS = 3.5e-4  # ... and in addition per position of all layers
DENSE_SECONDS = 0.03  # sampled networks of linear layers, per image and layer
FLOPS = 1e10  # per second, of a forward and backward pass in float64
DRAW_SECONDS = 0.02  # of a measured draw, per layer


def expected_phases(
    model: nn.Module,
    images: Tensor,
    theories: Sequence[str],
    *,
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
        "field": len(images) * POSITION_SECONDS * _positions(net),
        "finite_width": _finite_width_seconds(net, len(images)),
    }
    phases = [Phase(f"theory {theory}", seconds.get(theory, 0.0)) for theory in theories]
    if draws:
        multiplications = sum(
            WeightShape.of(layers[stage.name]).fan_in * _outputs(stage.output_shape)
            for stage in net.stages
        )
        per_draw = DRAW_SECONDS * len(layers) + 6 * len(images) * multiplications / FLOPS
        phases.append(Phase("draw", draws * per_draw))
        details += f", {_count(draws, 'measured draw')}"
    return phases, details


def _finite_width_seconds(net: ParsedNetwork, images: int) -> float:
    if all(stage.positions == 1 for stage in net.stages):
        return images * DENSE_SECONDS * len(net.stages)
    per_layer = FIRST_ORDER_SECONDS + FIRST_ORDER_POSITION_SECONDS * _positions(net)
    return images * len(net.stages) * per_layer


def _positions(net: ParsedNetwork) -> int:
    return sum(stage.positions for stage in net.stages)


def _outputs(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
