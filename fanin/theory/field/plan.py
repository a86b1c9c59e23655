"""Plan of the covariances and products that each layer needs, made before any computation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from fanin.theory.field.geometry import Taps
from fanin.theory.field.interlayer import Interlayer
from fanin.theory.field.state import LayerWeights
from fanin.theory.field.weights import layer_weights
from fanin.theory.layer_kind import Mixing, UnpredictableLayer
from fanin.theory.moments import LayerMoments, moments_of
from fanin.theory.network import ParsedNetwork, Stage

MAX_POINTS = 4096  # a covariance of this many points takes 128 MB, and about five exist at once


class FieldTooLarge(UnpredictableLayer):
    """A field has too many points to compute its covariances."""

    def __init__(
        self,
        name: str,
        points: int,
        advice: str = "use fewer or smaller images, or theory `mean_field`",
    ) -> None:
        super().__init__(
            name,
            f"it has {points} positions on the jointly predicted images, and theory `field`"
            f" supports at most {MAX_POINTS}; {advice}",
        )


@dataclass(frozen=True)
class LayerPlan:
    """One weight layer and the moments that it needs.

    Attributes
    ----------
    interlayer
        The modules up to the next weight layer. None for a last layer whose pre-activations are the
        logits.
    needs_cov
        True if covariances of its pre-activations are needed.
    needs_products
        True if products of its input points are needed.
    """

    name: str
    taps: Taps
    weights: LayerWeights
    interlayer: Interlayer | None
    needs_cov: bool
    needs_products: bool


def plan_layers(
    model: nn.Module,
    net: ParsedNetwork,
    moments: Mapping[str, LayerMoments],
    input_shape: Sequence[int],
    *,
    images_per_field: int,
    keep_covariances: bool,
) -> tuple[LayerPlan, ...]:
    """Plan all layers of a network.

    Parameters
    ----------
    input_shape
        Channels and positions of the first weight layer's input.
    images_per_field
        Images that share one field.
    keep_covariances
        Compute covariances of all layers, even if no moment depends on them.

    Raises
    ------
    UnpredictableLayer
        Theory `field` has no formula for a module.
    FieldTooLarge
        A layer needs covariances of more than `MAX_POINTS` points.
    """
    modules = dict(model.named_modules())
    channels, positions = input_shape[0], tuple(input_shape[1:])
    layers: list[tuple[str, Taps, LayerWeights, Interlayer | None]] = []
    for stage in net.stages:
        layer = modules[stage.name]
        taps = Taps.of(stage.name, layer, positions, images_per_field, channels)
        weights = layer_weights(layer, moments_of(moments, stage.name), taps)
        interlayer = _interlayer(stage, stage is net.stages[-1], images_per_field, taps.positions)
        positions = interlayer.out_positions if interlayer else taps.positions
        channels = weights.out_channels
        layers.append((stage.name, taps, weights, interlayer))
    _check_layer_norm(
        [interlayer for *_, interlayer in layers[:-1]], [weights for _, _, weights, _ in layers]
    )
    return _plan_needs(layers, keep_covariances)


def _check_layer_norm(
    interlayers: Sequence[Interlayer | None], weights: Sequence[LayerWeights]
) -> None:
    """Reject layer normalization, unless its channels have mean 0 and equal distributions."""
    name = next(
        (
            step_name
            for interlayer in interlayers
            if interlayer is not None
            for step_name, step in zip(interlayer.names, interlayer.steps, strict=True)
            if isinstance(step, Mixing) and step.over_channels
        ),
        None,
    )
    if name is None:
        return
    if not all(layer.zero_mean for layer in weights):
        raise UnpredictableLayer(
            name,
            "layer normalization is not supported with weights of non-zero mean;"
            " use an init scheme of mean zero",
        )
    if weights[0].groups > 1:
        raise UnpredictableLayer(
            name, "layer normalization is not supported after a grouped first layer"
        )


def _interlayer(
    stage: Stage, is_last: bool, images_per_field: int, positions: tuple[int, ...]
) -> Interlayer | None:
    """Return the modules after a weight layer; None if there are none after the last one."""
    try:
        interlayer = Interlayer.of(stage.after, images_per_field, positions)
    except UnpredictableLayer:
        if is_last:  # a head, such as softmax, takes logits unchanged
            return None
        raise
    return None if is_last and not interlayer.steps else interlayer


def _plan_needs(
    layers: Sequence[tuple[str, Taps, LayerWeights, Interlayer | None]], keep_covariances: bool
) -> tuple[LayerPlan, ...]:
    # From the last layer to the first: a layer needs covariances if a later pooling combines
    # points, or a later weight mean sums the inputs.
    plans: list[LayerPlan] = []
    needed = keep_covariances
    for name, taps, weights, interlayer in layers[::-1]:
        needed = needed or (interlayer is not None and interlayer.mixes_points)
        plans.append(
            LayerPlan(name, taps, weights, interlayer, needed, needed or not weights.zero_mean)
        )
        if needed and len(taps.input_index) > MAX_POINTS:
            raise FieldTooLarge(name, len(taps.input_index))
        needed = needed or not weights.zero_mean
    return tuple(plans[::-1])
