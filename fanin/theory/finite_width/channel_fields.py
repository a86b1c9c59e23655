"""Channels of a layer as Gaussian fields around a part that all channels share.

Let the inputs x of a weight layer be their mean over channels, a map, plus deviations. Weights of
variance s^2 map both to Gaussian fields. The first follows from the map exactly. The second is a
sum over many channels; this module takes its correlation between points from theory `field`, and
its variance at each point from the draw. The same holds for cotangents in the backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from fanin.seeds import make_generator
from fanin.theory.field.geometry import Taps
from fanin.theory.field.interlayer import Interlayer
from fanin.theory.field.sampling import factor
from fanin.theory.field.state import FieldLayer, LayerWeights
from fanin.theory.layer_kind import Mixing

FIELDS = 4096  # in a bank; a draw chooses one for every channel
Channels = Float[Tensor, "draw group channel point"]
Maps = Float[Tensor, "draw group point"]


@dataclass(frozen=True)
class ChannelLayer:
    """A weight layer with samples of the fields of its channels.

    Attributes
    ----------
    field
        The layer in theory `field`.
    mean, var
        Mean and variance of a weight, for each tap.
    forward
        Fields of variance 1 with the correlations of the deviations' part in the pre-activations;
        in the first layer, of the pre-activations without biases.
    backward
        Fields of variance 1 with the correlations of the deviations' part in the cotangent at the
        layer's input; empty in the first layer.
    """

    field: FieldLayer
    mean: Float[Tensor, " tap"]
    var: Float[Tensor, " tap"]
    forward: Float[Tensor, "sample point"]
    backward: Float[Tensor, "sample in_point"]

    @property
    def taps(self) -> Taps:
        """Geometry of the weights."""
        return self.field.taps

    @property
    def weights(self) -> LayerWeights:
        """Moments of the weights."""
        return self.field.weights

    @cached_property
    def interlayer(self) -> Interlayer | None:
        """The modules after the layer, with the gradient of statistics over a draw's channels."""
        interlayer = self.field.interlayer
        if interlayer is None:
            return None
        steps = (
            replace(step, backward=None)
            if isinstance(step, Mixing) and step.over_channels
            else step
            for step in interlayer.steps
        )
        return replace(interlayer, steps=tuple(steps))


def channel_layers(
    layers: Sequence[FieldLayer], seed: int, dtype: torch.dtype
) -> list[ChannelLayer]:
    """Sample banks of fields for all layers.

    Parameters
    ----------
    layers
        One pass of `propagate_field` with covariances of all layers.
    """
    result = []
    for index, layer in enumerate(layers):
        taps, weights, cotangent = layer.taps, layer.weights, layer.cotangent
        assert cotangent is not None
        if index == 0:
            covariance, backward = layer.preact.covariance - weights.bias_var, None
        else:
            covariance = taps.forward_products(layer.inputs.covariance, weights.var)
            own = cotangent.full_products
            if cotangent.shared is not None:
                own = own - cotangent.shared.additive
            backward = taps.backward_products(own, weights.var)
        key = (seed, index)
        result.append(
            ChannelLayer(
                layer,
                weights.mean.to(dtype),
                weights.var.to(dtype),
                _bank(covariance, *key, "forward").to(dtype),
                (covariance.new_empty(0) if backward is None else _bank(backward, *key)).to(dtype),
            )
        )
    return result


def _bank(covariance: Tensor, *key: object) -> Float[Tensor, "sample point"]:
    """Sample fields with the mean correlation of all particles and groups."""
    scale = covariance.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    inverse = torch.where(scale > 0, 1 / scale, 0.0)
    correlation = (covariance * inverse[..., :, None] * inverse[..., None, :]).flatten(0, 2).mean(0)
    root = factor(correlation).float()
    half = torch.randn(FIELDS // 2, root.shape[-1], generator=make_generator("bank", *key))
    fields = half @ root.mT
    fields = fields / fields.square().mean(0).sqrt().clamp(min=1e-12)
    return torch.cat([fields, -fields])


def choose_fields(
    bank: Float[Tensor, "sample point"], shape: tuple[int, ...], stream: torch.Generator
) -> Float[Tensor, "*shape point"]:
    """Choose a random field of a bank for every channel."""
    return bank[torch.randint(len(bank), shape, generator=stream)]


def split_channels(x: Channels) -> tuple[Maps, Channels, Maps]:
    """Return the mean over channels, the deviations, and their mean square."""
    mean = x.mean(2)
    deviations = x - mean[:, :, None]
    return mean, deviations, deviations.square().mean(2)


def tap_maps(taps: Taps, x: Maps) -> Float[Tensor, "draw group tap in_point"]:
    """Return the transpose of `Taps.gather` for each tap separately."""
    received = x.new_zeros(*x.shape[:-1], taps.n_taps, taps.n_inputs + 1)
    index = taps.input_index.T.expand(*received.shape[:-1], -1)
    source = x[..., None, :].expand(*index.shape)
    return received.scatter_add_(-1, index, source)[..., 1:]
