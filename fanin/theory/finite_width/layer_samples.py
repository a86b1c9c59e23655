"""Samples of the channels of all layers, for the first-order law."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from fanin.theory.field.state import FieldLayer
from fanin.theory.finite_width.adjoints import (
    ClosedAdjoint,
    Forms,
    is_closed,
    is_readout_linear,
)
from fanin.theory.finite_width.channels import (
    ChannelSamples,
    draw_channels,
    draw_logit_cotangents,
    draw_output_cotangents,
    logit_cotangents,
    whitened_channels,
)
from fanin.theory.finite_width.free_fraction import FreeFraction

MIN_SAMPLES = 256  # channel samples; a layer's part of the variance then has an error of about 25 %
MAX_SAMPLES = 16384  # an error of about 4 %
MAX_NUMBERS = 2**22  # target size of the samples of all layers, between these bounds


@dataclass
class LayerSamples:
    """Samples of a layer, and the derivatives that the two sweeps of `first_order` compute.

    Attributes
    ----------
    channels
        Samples of its channels.
    output_cotangent, cotangent
        Cotangents from one draw of the next layer's channels, at the output of the modules and at
        the pre-activations.
    whitened
        Samples for adjoints; None if the adjoints have closed forms.
    adjoint
        The adjoints in closed form; None if they use samples.
    influence
        Influence of each sample on each target.
    fixed_influence
        The part of the influence that orthogonal weights fix in the backward pass.
    field_forms
        Targets and their forms of the field's covariance. If the adjoint has no closed form, they
        are forms of the cotangent's moments instead.
    """

    channels: ChannelSamples
    output_cotangent: Float[Tensor, "sample out"]
    cotangent: Float[Tensor, "sample point"]
    whitened: ChannelSamples | None
    adjoint: ClosedAdjoint | None
    influence: Float[Tensor, "sample target"]
    fixed_influence: Float[Tensor, "sample target"]
    field_forms: list[tuple[list[int], Forms]] = field(default_factory=list)


def sample_layers(
    layers: Sequence[FieldLayer], free_fractions: Sequence[FreeFraction], seed: int
) -> list[LayerSamples]:
    """Sample the channels of all layers, except a last layer with a linear readout."""
    n, readout_is_linear = len(layers), is_readout_linear(layers[-1])
    cotangent = logit_cotangents(layers[-1], seed) if readout_is_linear else None
    layer_samples = []
    for index in range(n - 1 - readout_is_linear, -1, -1):
        layer = layers[index]
        assert layer.interlayer is not None
        assert layer.output_cotangent is not None
        key = (seed, index)
        points = layer.preact.var.shape[-1]
        if cotangent is None:
            n_samples = _n_samples(n, points)
            output_cotangent = draw_logit_cotangents(
                n_samples, layer.output_cotangent.m2.shape[-1], seed
            )
        else:
            next_layer = layers[index + 1]
            n_senders = min(len(cotangent), next_layer.weights.group_out_channels)
            if next_layer.taps.is_linear:
                n_senders = 1
            n_samples = _n_samples(n, max(points, next_layer.taps.n_taps * n_senders // n))
            output_cotangent = draw_output_cotangents(
                next_layer, cotangent, layer.output_cotangent, n_samples, *key
            )
        channels, cotangent = draw_channels(layer, output_cotangent, *key)
        closed = is_closed(layer.interlayer, layer.preact)
        whitened = None if closed else whitened_channels(layer, *key)
        adjoint = ClosedAdjoint(layer) if closed else None
        if closed and free_fractions[index].forward == 1:
            empty = torch.empty(0, dtype=torch.float64)  # not needed again
            channels = replace(channels, normals=empty, root=empty, y=empty)
        zeros = torch.zeros(n_samples, 3 * n, dtype=torch.float64)
        layer_samples.append(
            LayerSamples(channels, output_cotangent, cotangent, whitened, adjoint, zeros, zeros)
        )
    return layer_samples[::-1]


def _n_samples(n_layers: int, points: int) -> int:
    return max(MIN_SAMPLES, min(MAX_SAMPLES, MAX_NUMBERS // (n_layers * points)))
