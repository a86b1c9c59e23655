"""Plan of what a walk has to keep: read off the network once, before any computation."""

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
from fanin.theory.walk import Stage, Walk

MOST_POINTS = 4096  # of one field: its covariance then takes 128 MB, and some five are held


class FieldTooLarge(UnpredictableLayer):
    """Covariances over this many points would neither fit nor end."""

    def __init__(self, name: str, points: int) -> None:
        super().__init__(
            name,
            f"its field has {points} points and covariances are kept for {MOST_POINTS} at most; "
            "take fewer images jointly, smaller images, or the coarser theory mean_field",
        )


@dataclass(frozen=True)
class LayerPlan:
    """One weight layer of the plan, and what follows it.

    Attributes
    ----------
    between
        Up to the next weight layer; None for the last, unless a pooling makes logits of its maps.
    cov
        Whether covariances of its pre-activations are needed.
    products
        Whether products of the points it is fed are needed.
    """

    name: str
    taps: Taps
    weights: LayerWeights
    between: Interlayer | None
    cov: bool
    products: bool


def plan(
    model: nn.Module,
    net: Walk,
    moments: Mapping[str, LayerMoments],
    fed_shape: Sequence[int],
    *,
    images: int,
    everywhere: bool,
) -> tuple[LayerPlan, ...]:
    """Plan the walk through a network.

    Parameters
    ----------
    fed_shape
        Channels and positions of what enters the first weight layer.
    images
        Taken jointly, as one field.
    everywhere
        Keep covariances whether or not a moment depends on them.

    Raises
    ------
    UnpredictableLayer
        A module without a field theory.
    FieldTooLarge
        Covariances are needed over too many points.
    """
    modules = dict(model.named_modules())
    channels, positions = fed_shape[0], tuple(fed_shape[1:])
    laid: list[tuple[str, Taps, LayerWeights, Interlayer | None]] = []
    for stage in net.stages:
        layer = modules[stage.name]
        taps = Taps.of(stage.name, layer, positions, images, channels)
        weights = layer_weights(layer, moments_of(moments, stage.name), taps)
        between = _between(stage, stage is net.stages[-1], images, taps.positions)
        positions = between.out_positions if between else taps.positions
        channels = weights.channels
        laid.append((stage.name, taps, weights, between))
    _refuse_over_channels(
        [between for *_, between in laid[:-1]], [weights for _, _, weights, _ in laid]
    )
    return _needs(laid, everywhere)


def _refuse_over_channels(
    betweens: Sequence[Interlayer | None], weights: Sequence[LayerWeights]
) -> None:
    """Refuse what looks at all channels together, unless they are one centred population."""
    over = next(
        (
            name
            for between in betweens
            if between is not None
            for name, step in zip(between.names, between.steps, strict=True)
            if isinstance(step, Mixing) and step.over_channels
        ),
        None,
    )
    if over is None:
        return
    if not all(layer.centred for layer in weights):
        raise UnpredictableLayer(
            over,
            "layer normalization over weights of non-zero mean: the cotangent that its channels"
            " share has no field theory",
        )
    if weights[0].groups > 1:
        raise UnpredictableLayer(over, "layer normalization over groups that see different images")


def _between(
    stage: Stage, is_last: bool, images: int, positions: tuple[int, ...]
) -> Interlayer | None:
    """Return what follows a weight layer; None behind the last, unless its outputs are pooled."""
    try:
        between = Interlayer.of(stage.after, images, positions)
    except UnpredictableLayer:
        if is_last:  # a head, softmax for one, takes logits as they are
            return None
        raise
    return None if is_last and not between.mixes else between


def _needs(
    laid: Sequence[tuple[str, Taps, LayerWeights, Interlayer | None]], everywhere: bool
) -> tuple[LayerPlan, ...]:
    # From the end: a layer's covariances matter where points are taken together further on, by a
    # pooling, or by weights whose mean adds up all that is fed.
    plans: list[LayerPlan] = []
    needed = everywhere
    for name, taps, weights, between in laid[::-1]:
        needed = needed or (between is not None and between.mixes)
        plans.append(LayerPlan(name, taps, weights, between, needed, needed or not weights.centred))
        if needed and len(taps.reads) > MOST_POINTS:
            raise FieldTooLarge(name, len(taps.reads))
        needed = needed or not weights.centred
    return tuple(plans[::-1])
