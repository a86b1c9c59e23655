"""Moments of each layer's weights, as declared by its init scheme."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from fanin.inits import (
    DeltaOrthogonal,
    Init,
    Moments,
    Orthogonal,
    Scheme,
    WeightShape,
    weight_layers,
)
from fanin.theory.layer_kind import UnpredictableLayer

Dependence = Literal["independent", "orthogonal", "orthogonal_per_group"]


@dataclass(frozen=True)
class LayerMoments:
    """Moments of one layer's weights and biases.

    Attributes
    ----------
    weight
        Mean and variance of the weights.
    bias
        Mean and variance of the biases.
    dependence
        `independent`: the weights are independent of each other. `orthogonal`: the rows or the
        columns, whichever are fewer, are orthogonal, which makes the moments vary less between
        draws; a grouped convolution has one matrix for all groups. `orthogonal_per_group`: each
        group has an independent orthogonal matrix.
    """

    weight: Moments
    bias: Moments
    dependence: Dependence = "independent"


def declared_moments(model: nn.Module, init: Init) -> dict[str, LayerMoments]:
    """Return the moments of each weight layer, as declared by its init scheme.

    Raises
    ------
    UnpredictableLayer
        The scheme declares no moments.
    """
    modules = weight_layers(model)
    moments = {}
    for name, layer in init.for_model(model).items():
        shape = WeightShape.of(modules[name])
        weight, bias = layer.weight_moments(shape), layer.bias_moments(shape)
        if weight is None or bias is None:
            scheme = type(layer.scheme).__name__
            raise UnpredictableLayer(
                name, f"{scheme} declares no moments of the weights, which theory needs"
            )
        # A scheme declares bias moments for every layer, also for layers without biases.
        moments[name] = LayerMoments(
            weight,
            Moments(0.0, 0.0) if modules[name].bias is None else bias,
            _dependence(layer.scheme, shape),
        )
    return moments


def _dependence(scheme: Scheme, shape: WeightShape) -> Dependence:
    match scheme:
        case Orthogonal():
            per_group = scheme.per_group
        case DeltaOrthogonal():
            per_group = True
        case _:
            return "independent"
    return "orthogonal_per_group" if per_group and shape.groups > 1 else "orthogonal"


@dataclass(frozen=True)
class ScalarMoments:
    """Moments of one layer as four numbers, averaged over kernel taps."""

    weight_mean: float
    weight_var: float
    bias_mean: float
    bias_var: float


def scalar_moments(
    moments: Mapping[str, LayerMoments], layers: Iterable[str]
) -> dict[str, ScalarMoments]:
    """Return the moments of each weight layer, averaged over kernel taps.

    Raises
    ------
    UnpredictableLayer
        A layer has no declared moments.
    """
    return {name: _scalar(moments_of(moments, name)) for name in layers}


def moments_of(moments: Mapping[str, LayerMoments], name: str) -> LayerMoments:
    """Return the moments of one weight layer.

    Raises
    ------
    UnpredictableLayer
        The layer has no declared moments.
    """
    if name not in moments:
        raise UnpredictableLayer(name, "init has no moments of its weights, which theory needs")
    return moments[name]


def _scalar(layer: LayerMoments) -> ScalarMoments:
    return ScalarMoments(*_over_taps(layer.weight), *_over_taps(layer.bias))


def _over_taps(moments: Moments) -> tuple[float, float]:
    mean = torch.as_tensor(moments.mean, dtype=torch.float64)
    var = torch.as_tensor(moments.var, dtype=torch.float64)
    # Law of total variance, with the tap chosen at random.
    return float(mean.mean()), float(var.mean() + mean.var(correction=0))
