"""Moments of each layer's weights, as its init scheme declares them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from fanin.inits import DeltaOrthogonal, Init, Moments, Orthogonal, WeightShape, weight_layers
from fanin.theory.layer_kind import UnpredictableLayer

Law = Literal["independent", "orthogonal"]
ORTHOGONAL = (Orthogonal, DeltaOrthogonal)


@dataclass(frozen=True)
class LayerMoments:
    """Mean and variance of one layer's weights, and of its biases.

    Attributes
    ----------
    law
        What the moments leave open: whether a layer's weights are `independent` of each other, or
        `orthogonal` (rows or columns, whichever are fewer), which makes one draw's moments scatter
        less.
    """

    weight: Moments
    bias: Moments
    law: Law = "independent"


def declared_moments(model: nn.Module, init: Init) -> dict[str, LayerMoments]:
    """Each weight layer's moments, as its init scheme declares them.

    Raises
    ------
    UnpredictableLayer
        The scheme declares none.
    """
    modules = weight_layers(model)
    moments = {}
    for name, layer in init.for_model(model).items():
        shape = WeightShape.of(modules[name])
        weight, bias = layer.weight_moments(shape), layer.bias_moments(shape)
        if weight is None or bias is None:
            scheme = type(layer.scheme).__name__
            raise UnpredictableLayer(name, f"{scheme} declares no moments; only data tells them")
        # A scheme declares biases for any layer; some layers have none.
        none = Moments(0.0, 0.0)
        moments[name] = LayerMoments(
            weight,
            none if modules[name].bias is None else bias,
            "orthogonal"
            if isinstance(layer.scheme, (Orthogonal, DeltaOrthogonal))
            else "independent",
        )
    return moments


@dataclass(frozen=True)
class ScalarMoments:
    """The same, as four numbers: kernel taps that differ are averaged over."""

    weight_mean: float
    weight_var: float
    bias_mean: float
    bias_var: float


def scalar_moments(
    moments: Mapping[str, LayerMoments], layers: Iterable[str]
) -> dict[str, ScalarMoments]:
    """Look up every weight layer's moments, averaged over kernel taps.

    Raises
    ------
    UnpredictableLayer
        A layer has no declared moments.
    """
    return {name: _scalar(moments_of(moments, name)) for name in layers}


def moments_of(moments: Mapping[str, LayerMoments], name: str) -> LayerMoments:
    """Look up one weight layer's moments.

    Raises
    ------
    UnpredictableLayer
        The layer has no declared moments.
    """
    if name not in moments:
        raise UnpredictableLayer(
            name, "its init scheme declares no moments: they are known only once data were seen"
        )
    return moments[name]


def _scalar(layer: LayerMoments) -> ScalarMoments:
    return ScalarMoments(*_over_taps(layer.weight), *_over_taps(layer.bias))


def _over_taps(moments: Moments) -> tuple[float, float]:
    mean = torch.as_tensor(moments.mean, dtype=torch.float64)
    var = torch.as_tensor(moments.var, dtype=torch.float64)
    # The law of total variance, the tap being drawn at random.
    return float(mean.mean()), float(var.mean() + mean.var(correction=0))
