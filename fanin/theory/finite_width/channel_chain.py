r"""Samples of networks with convolutions, channel by channel, without weights.

Given a layer's inputs x, the pre-activations of its channels are independent Gaussian fields around
a mean map that they share. With n input channels, and weights of mean :math:`\mu` and variance
:math:`s^2`, all that matters of x is its mean over channels and its second moments:

.. math:: M(p) = n \mu \sum_t \bar x(p_t), \quad y_c = M + s \sqrt n \sum_t z_{ct} \bar x(p_t) + e_c

e_c is the part of the deviations :math:`x - \bar x` (`channel_fields`). In the backward pass, the
cotangent at x is the sum of the same two parts of :math:`\delta`, the cotangent at y, of the part
:math:`S = n \mu \sum_t \bar \delta` that the weights' mean adds to all channels, and of
:math:`\theta x`, because :math:`\delta` depends on the weights (`SharedCotangent`).

A draw costs as much as the activations of a network. The weights of a convolution would cost C k^2
times as much. Approximations are the correlations of e_c and the independence of its backward part
from the forward pass (docs/appendix/derivations.md, 5.7).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fanin.inits.weight_shape import UNIFORM_KURTOSIS
from fanin.progress import set_part
from fanin.seeds import make_generator
from fanin.theory.elementwise import vjp
from fanin.theory.field.state import FieldLayer, LayerWeights
from fanin.theory.finite_width.channel_fields import (
    ChannelLayer,
    Channels,
    channel_layers,
    choose_fields,
    split_channels,
    tap_maps,
)
from fanin.theory.finite_width.simulate import DrawMoments, concatenate, draw_moments

MAX_NUMBERS = 2**18  # numbers in one layer's channels, over the draws of a batch: 1 MB
# Products of moments in this range, and of four normal variables, are within float32.
FLOAT32_RANGE = (1e-12, 1e12)
TINY = torch.finfo(torch.float32).tiny


def sample_channels(
    layers: Sequence[FieldLayer],
    images: Float[Tensor, "image channel *position"],
    *,
    draws: int,
    seed: int = 0,
) -> DrawMoments:
    """Sample draws of a network on some images, forward and backward.

    Parameters
    ----------
    layers
        One pass of `propagate_field` with covariances of all layers; all images share the field.
    images
        Input of the first weight layer.
    draws
        Number of networks.
    """
    dtype = _dtype(layers)
    chain = _Chain(channel_layers(layers, seed, dtype), images.to(dtype))
    batch_size = max(1, min(draws, MAX_NUMBERS // chain.size))
    batches = []
    for start in range(0, draws, batch_size):
        set_part("network", start, draws, is_share=True)
        stream = make_generator("channel chain", seed, start)
        batches.append(chain.run(min(batch_size, draws - start), stream))
    return concatenate(batches)


def _dtype(layers: Sequence[FieldLayer]) -> torch.dtype:
    """Return float32 if all moments are within `FLOAT32_RANGE`, else float64."""
    low, high = FLOAT32_RANGE
    for layer in layers:
        assert layer.cotangent is not None
        for m2 in (layer.inputs.m2, layer.preact.m2, layer.cotangent.m2):
            if float(m2.max()) > high or float(m2.mean()) < low:
                return torch.float64
    return torch.float32


@dataclass(frozen=True)
class _Forward:
    """Sampled channels of a layer.

    Attributes
    ----------
    inputs
        The layer's input.
    preact, score
        Pre-activations y, and (y - mean) / variance given the input.
    outputs
        Output of the modules after the layer, in the autograd graph of `preact`; None after the
        last layer.
    """

    inputs: Channels
    preact: Tensor
    score: Channels
    outputs: Tensor | None


class _Chain:
    def __init__(self, layers: Sequence[ChannelLayer], images: Tensor) -> None:
        self.layers, self.n_images, self.dtype = layers, len(images), images.dtype
        first = layers[0].weights
        x = images.transpose(0, 1).flatten(1)  # channel, point
        self.image = x.unflatten(0, (first.groups, -1))[None]
        self.size = max(
            layer.weights.out_channels * layer.field.preact.var.shape[-1] for layer in layers
        )

    def run(self, draws: int, stream: torch.Generator) -> DrawMoments:
        forward: list[_Forward] = []
        x = self.image.expand(draws, -1, -1, -1)
        for layer in self.layers:
            forward.append(self._forward(layer, x, stream, is_first=not forward))
            outputs = forward[-1].outputs
            if outputs is not None and len(forward) < len(self.layers):
                groups = self.layers[len(forward)].weights.groups
                x = outputs.detach().unflatten(1, (groups, -1))
        logits = forward[-1].outputs
        u = self._normals((forward[-1].preact if logits is None else logits).shape, stream)
        u = self._by_image(u)
        u = (u / u.square().mean(-1, keepdim=True).sqrt()).unflatten(
            -1, (self.layers[-1].weights.out_channels, -1)
        )
        d = u.transpose(1, 2).flatten(2)
        cotangents, gradients = [], []
        for index in range(len(self.layers) - 1, -1, -1):
            step, layer = forward[index], self.layers[index]
            if step.outputs is not None:
                (d,) = vjp(step.outputs, [step.preact], d)
            cotangents.append(d)
            grouped = d.unflatten(1, (layer.weights.groups, -1))
            gradients.append(self._weight_gradient(layer, step.inputs, grouped))
            if index:
                d = self._backward(layer, step, grouped, stream).flatten(1, 2)
        return draw_moments(
            preactivations=[self._by_image(step.preact.detach()) for step in forward],
            cotangents=[self._by_image(d) for d in cotangents[::-1]],
            weight_gradients=gradients[::-1],
        )

    def _normals(self, shape: tuple[int, ...], stream: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=stream).to(self.dtype)

    def _biases(
        self, weights: LayerWeights, shape: tuple[int, ...], stream: torch.Generator
    ) -> Tensor:
        """Draw biases of the given variance and kurtosis, between normal and uniform, around 0."""
        uniform_share = min(max(weights.bias_kurtosis / UNIFORM_KURTOSIS, 0.0), 1.0) ** 0.5
        z = (1 - uniform_share) ** 0.5 * self._normals(shape, stream)
        if uniform_share:
            uniform = torch.rand(shape, generator=stream).to(self.dtype) - 0.5
            z = z + (12 * uniform_share) ** 0.5 * uniform
        return weights.bias_var**0.5 * z

    def _by_image(self, x: Float[Tensor, "draw channel point"]) -> Tensor:
        return x.unflatten(-1, (self.n_images, -1)).transpose(1, 2).flatten(2)

    def _forward(
        self, layer: ChannelLayer, x: Channels, stream: torch.Generator, *, is_first: bool
    ) -> _Forward:
        taps, weights = layer.taps, layer.weights
        n, (draws, groups) = weights.group_in_channels, x.shape[:2]
        shape = (draws, groups, weights.out_channels // groups)
        mean, _, deviation = split_channels(x)
        total = n * taps.forward_m2(x.square().mean(2), layer.var)
        gathered = taps.gather(mean)
        own = total if is_first else n * taps.forward_m2(deviation, layer.var)
        y = own.sqrt()[:, :, None] * choose_fields(layer.forward, shape, stream)
        if not is_first:
            kernels = (n * layer.var).sqrt() * self._normals((*shape, taps.n_taps), stream)
            y = y + kernels @ gathered.mT
        total = total + weights.bias_var
        if weights.bias_var:
            y = y + self._biases(weights, (*shape, 1), stream)
        score = y / total[:, :, None].clamp(min=TINY)
        y = y + (n * (gathered @ layer.mean) + weights.bias_mean)[:, :, None]
        y = y.flatten(1, 2)
        interlayer = layer.interlayer
        if interlayer is None:
            return _Forward(x, y, score, None)
        with torch.enable_grad():
            y.requires_grad_()
            out = interlayer.apply(y.flatten(0, 1), stream, draws).unflatten(0, (draws, -1))
        return _Forward(x, y, score, out)

    def _backward(
        self, layer: ChannelLayer, step: _Forward, d: Channels, stream: torch.Generator
    ) -> Channels:
        """Sample the cotangent at a layer's input from that at its pre-activations."""
        taps, weights, x = layer.taps, layer.weights, step.inputs
        n, shape = weights.group_out_channels, x.shape[:3]
        mean, _, deviation = split_channels(d)
        own = n * taps.backward_m2(deviation, layer.var)
        g = own.sqrt()[:, :, None] * choose_fields(layer.backward, shape, stream)
        kernels = (n * layer.var).sqrt() * self._normals((*shape, taps.n_taps), stream)
        if taps.is_linear:
            g = g + (mean[:, :, None, :, None] * kernels[:, :, :, None]).flatten(-2)
        else:
            g = g + kernels @ tap_maps(taps, mean)
        theta, _, noise = split_channels(step.score * d)
        theta = n * taps.backward_m2(theta, layer.var)
        # The noise of theta is that of g in the direction of x, which must not count twice.
        noise = n * taps.backward_m2(noise, layer.var.square())
        variance = n * taps.backward_m2(d.square().mean(2), layer.var)
        length = x.square().sum(2)
        known = (noise * length / variance.clamp(min=TINY)).clamp(max=1)
        removed = (1 - (1 - known).sqrt()) * (g * x).sum(2) / length.clamp(min=TINY)
        shared = n * taps.backward_m2(mean, layer.mean)
        return g + shared[:, :, None] + (theta - removed)[:, :, None] * x

    def _weight_gradient(
        self, layer: ChannelLayer, x: Channels, d: Channels
    ) -> Float[Tensor, "draw image"]:
        """Average (dL/dw)^2 over a layer's weights, for each image."""
        taps = layer.taps

        def by_image(z: Tensor) -> Tensor:
            return z.unflatten(-1, (self.n_images, -1)).movedim(-2, 1)

        d = by_image(d)
        if taps.is_linear:
            return d.square().mean((2, 3, 4)) * by_image(x).square().mean((2, 3, 4))
        padded = F.pad(x, (1, 0))
        total = d.new_zeros(d.shape[:2])
        for tap in taps.input_index.T:
            sums = d @ by_image(padded[..., tap]).mT
            total += sums.square().mean((2, 3, 4))
        return total / taps.n_taps
