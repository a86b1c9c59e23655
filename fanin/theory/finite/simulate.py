"""Finite-width law of a convolutional net, by drawing networks of the moments that are declared.

Given one layer's channels the next layer's fields are Gaussian, with a covariance over positions
that is known from those channels. To draw the fields from it would cost more than to draw Gaussian
weights and convolve, which gives the same law; so that is what happens here.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from fanin.inits import DeltaOrthogonal, Moments, Orthogonal, weight_layers
from fanin.inits.weight_shape import WeightLayer, WeightShape
from fanin.models.dropout import SeededDropout
from fanin.probes.moments import random_cotangent
from fanin.probes.trace import LayerTrace, trace
from fanin.seeds import generator
from fanin.theory.finite.summary import Samples, joined, moments_of_draws
from fanin.theory.moments import LayerMoments, moments_of
from fanin.theory.walk import Walk

FEWEST = 64  # draws: their spread is then known to 9 %
MOST = 200  # to 5 %
WORK = 1e10  # multiplications of a forward pass, all draws and images together: some 5 s


def affordable_draws(model: nn.Module, net: Walk, images: int) -> int:
    """As many draws as the work allows, from 64 to 200.

    Examples
    --------
    >>> from fanin.theory.walk import walk
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 26 * 26, 10))
    >>> affordable_draws(model, walk(model, (1, 28, 28)), images=8)
    200
    """
    shapes = {name: WeightShape.of(layer) for name, layer in weight_layers(model).items()}
    layers = [(shapes[stage.name], stage.positions) for stage in net.stages]
    one = sum(shape.out_features * shape.fan_in * positions for shape, positions in layers)
    return max(FEWEST, min(MOST, int(WORK / (one * images))))


def conv_chain(
    model: nn.Module,
    net: Walk,
    moments: Mapping[str, LayerMoments],
    images: Float[Tensor, "image channel *position"],
    *,
    draws: int | None = None,
    seed: int = 0,
) -> Samples:
    """Draw networks and take their moments on some images.

    Weights and biases are Gaussian, or orthogonal where that is declared; with the moments of each
    kernel tap where those differ. All images meet the same network, each with a random cotangent
    of its own at the logits. Computed in float64.

    Parameters
    ----------
    model, net, moments
        The model is copied, its weights are not read.
    images
        As the network is fed them, scaled.
    draws
        Networks; None: as many as the work allows, from 64 to 200.

    Returns
    -------
    Samples
        Of preact_m2, preact_mean, preact_var, vjp_m2 and weight_vjp_m2.
    """
    draws = draws or affordable_draws(model, net, len(images))
    network = deepcopy(model).to("cpu", torch.float64)
    images = images.detach().to("cpu", torch.float64)
    batches = []
    with torch.random.fork_rng([]):  # torch's own dropout draws from the global stream
        for draw in range(draws):
            stream = generator("conv chain", seed, draw)
            torch.manual_seed(stream.initial_seed())
            _fill(network, moments, stream)
            _mask(network, len(images), stream)
            batches.append(_measured(network, images, stream))
    return joined(batches)


@torch.no_grad()
def _fill(network: nn.Module, moments: Mapping[str, LayerMoments], stream: torch.Generator) -> None:
    for name, layer in weight_layers(network).items():
        known = moments_of(moments, name)
        if known.law == "orthogonal":
            layer.weight.copy_(_orthogonal(layer, known.weight, stream))
        else:
            layer.weight.copy_(_gaussian(layer.weight, known.weight, stream))
        if layer.bias is not None:
            layer.bias.copy_(_gaussian(layer.bias, known.bias, stream))


def _gaussian(like: Tensor, moments: Moments, stream: torch.Generator) -> Tensor:
    # Normals of 24 bits are drawn five times as fast as those of 53, and scatter alike.
    z = torch.randn(like.shape, generator=stream).double()
    return torch.as_tensor(moments.mean) + torch.as_tensor(moments.var).double().sqrt() * z


def _orthogonal(layer: WeightLayer, moments: Moments, stream: torch.Generator) -> Tensor:
    shape = WeightShape.of(layer)
    var = torch.as_tensor(moments.var)
    # Variances that differ from tap to tap are those of a kernel with one tap.
    scheme = Orthogonal() if var.ndim == 0 else DeltaOrthogonal()
    unit = torch.as_tensor(scheme.moments(shape).var)
    return (var.max() / unit.max()).sqrt() * scheme.sample(shape, stream)


def _mask(network: nn.Module, images: int, stream: torch.Generator) -> None:
    for module in network.modules():
        if isinstance(module, SeededDropout) and module.training:
            uniform = torch.rand((images, *module.features), generator=stream)
            module.mask = (uniform >= module.p).double() / (1 - module.p)


def _measured(network: nn.Module, images: Tensor, stream: torch.Generator) -> Samples:
    with torch.enable_grad():
        layers, logits = trace(network, images)
        made = [layer.preactivation for layer in layers]
        u = random_cotangent(len(images), logits.flatten(1).shape[1], stream).reshape(logits.shape)
        found = torch.autograd.grad(logits, made, u, allow_unused=True)
    cotangents = [torch.zeros_like(y) if d is None else d for y, d in zip(made, found, strict=True)]
    return moments_of_draws(
        preactivations=[y.detach()[None] for y in made],
        cotangents=[d[None] for d in cotangents],
        weight_gradients=[
            _weight_gradient(layer, d)[None] for layer, d in zip(layers, cotangents, strict=True)
        ],
    )


def _weight_gradient(layer: LayerTrace, cotangent: Tensor) -> Float[Tensor, " image"]:
    """Mean square over the weights of each image's own gradient."""
    module, x = layer.module, layer.input.detach()
    if not isinstance(module, _ConvNd):
        return cotangent.square().mean(1) * x.square().mean(1)
    # A kernel tap's gradient pairs each cotangent with the input that the tap read.
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    patches = F.pad(x, module._reversed_padding_repeated_twice, mode=mode)
    for axis, (size, stride, dilation) in enumerate(
        zip(module.kernel_size, module.stride, module.dilation, strict=True), start=2
    ):
        patches = patches.unfold(axis, (size - 1) * dilation + 1, stride)[..., ::dilation]
    dimensions = len(module.kernel_size)
    # image, group, channel and tap, position
    patches = patches.flatten(2, 1 + dimensions).movedim(2, -1)
    patches = patches.reshape(len(x), module.groups, -1, patches.shape[-1])
    received = cotangent.reshape(len(x), module.groups, -1, patches.shape[-1])
    return (received @ patches.mT).square().mean((1, 2, 3))
