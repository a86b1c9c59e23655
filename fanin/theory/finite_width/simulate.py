"""Moments of drawn networks, and the distribution of one draw's moments.

`simulate_networks` draws networks with the declared moments; `fanin.theory.finite_width.fit` fits
the distribution of their moments.

Given one layer's channels, the next layer's fields are Gaussian with a known covariance over
positions. Sampling these fields costs more than drawing Gaussian weights and convolving, which
gives the same distribution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from fanin.inits import DeltaOrthogonal, Moments, Orthogonal, weight_layers
from fanin.inits.weight_shape import WeightLayer, WeightShape
from fanin.models.layers import SeededDropout
from fanin.probes.measure import Tracer
from fanin.probes.moments import random_cotangent
from fanin.probes.trace import LayerTrace, trace
from fanin.progress import set_part
from fanin.seeds import make_generator
from fanin.theory.elementwise import vjp
from fanin.theory.finite_width.fit import fit_distribution
from fanin.theory.moments import LayerMoments, moments_of
from fanin.theory.prediction import DrawDistribution

MIN_DRAWS = 64  # the spread of the draws then has an error of 9 %
MAX_DRAWS = 1024  # an error of 2 %
# Standard error of the mean log-moments at which drawing stops: a fifth of log 1.1, the smallest
# margin in use, so the prediction's error hardly adds to the error of a measurement.
TARGET_LOG_SE = 0.02
MAX_WORK = 1e10  # multiplications of a forward pass, over all draws and images: about 5 s
# Float32 is used if its rounding changes no moment of this many test draws by more than a hundredth
# of `TARGET_LOG_SE`. This includes rounding in saturated activations and in differences.
FLOAT32_TESTS = 4
MAX_ROUNDING = 2e-4
FLOAT32_RANGE = (1e-30, 1e30)
SIGNED_QUANTITIES = ("preact_mean",)


class WeightStage(Protocol):
    """A weight layer: its path, and the number of output positions per channel."""

    @property
    def name(self) -> str: ...
    @property
    def positions(self) -> int: ...


class WeightStages(Protocol):
    """A network that lists its weight layers, such as a `ParsedNetwork`."""

    @property
    def stages(self) -> Sequence[WeightStage]: ...


def affordable_draws(model: nn.Module, net: WeightStages, n_images: int) -> int:
    """Return the number of draws that `MAX_WORK` allows, at least 64 and at most 1,024.

    Examples
    --------
    >>> from fanin.theory.network import parse_network
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 26 * 26, 10))
    >>> affordable_draws(model, parse_network(model, (1, 28, 28)), n_images=8)
    1024
    """
    shapes = {name: WeightShape.of(layer) for name, layer in weight_layers(model).items()}
    layers = [(shapes[stage.name], stage.positions) for stage in net.stages]
    work_per_image = sum(
        shape.out_features * shape.fan_in * positions for shape, positions in layers
    )
    return max(MIN_DRAWS, min(MAX_DRAWS, int(MAX_WORK / (work_per_image * n_images))))


def simulate_networks(
    model: nn.Module,
    net: WeightStages,
    moments: Mapping[str, LayerMoments],
    images: Float[Tensor, "image channel *position"],
    *,
    draws: int | None = None,
    seed: int = 0,
    tracer: Tracer = trace,
) -> DrawMoments:
    """Draw networks and measure their moments on some images.

    Networks are computed in float32 if the first draws have the same moments in float64, up to
    `MAX_ROUNDING`. From the first draw with a moment outside `FLOAT32_RANGE`, float64 is used.

    Weights and biases are Gaussian, or orthogonal if declared, with the moments of each kernel tap.
    All images use the same network, and each has its own random cotangent at the logits.

    Parameters
    ----------
    model, net, moments
        The network. The model is copied and its weights are not read.
    images
        Network inputs, already scaled.
    draws
        Number of networks. None draws 64 and continues until the standard error of every mean
        log-moment is at most `TARGET_LOG_SE` or `affordable_draws` is reached.
    tracer
        Function that records the layers of a network. A graph (`GraphTracer`) is recorded in
        float64, so its networks are never computed in float32.

    Returns
    -------
    DrawMoments
        preact_m2, preact_mean, preact_var, vjp_m2 and weight_vjp_m2.
    """
    max_draws = draws or affordable_draws(model, net, len(images))
    networks = {
        dtype: deepcopy(model).to("cpu", dtype).requires_grad_(False)
        for dtype in (torch.float32, torch.float64)
    }
    images = images.detach().to("cpu")

    def measure(draw: int, dtype: torch.dtype) -> DrawMoments:
        network, stream = networks[dtype], make_generator("conv chain", seed, draw)
        torch.manual_seed(stream.initial_seed())
        _initialize(network, moments, stream)
        _set_dropout_masks(network, len(images), dtype, stream)
        return _measure(network, images.to(dtype), stream, tracer)

    batches: list[DrawMoments] = []
    use_float32 = max_draws > FLOAT32_TESTS and tracer is trace
    with torch.random.fork_rng([]):  # torch.nn.Dropout uses the global generator
        for draw in range(max_draws):
            if draws is None and draw and draw % MIN_DRAWS == 0 and _is_precise(batches):
                break
            set_part("network", draw, max_draws, is_share=True)
            single = measure(draw, torch.float32) if use_float32 else None
            if draw < FLOAT32_TESTS or single is None or not _is_in_range(single):
                double = measure(draw, torch.float64)
                if single is not None:  # later draws are likely to leave the range as well
                    use_float32 = _is_in_range(single) and _is_equal_up_to_rounding(single, double)
                single = double
            batches.append(single)
    return concatenate(batches)


def _is_in_range(draw: DrawMoments) -> bool:
    """Return True if float32 computes a draw's moments without overflow and underflow."""
    low, high = FLOAT32_RANGE
    return all(
        bool(((moments >= low) & (moments <= high)).all())
        for name, moments in draw.values.items()
        if name not in SIGNED_QUANTITIES
    )


def _is_equal_up_to_rounding(single: DrawMoments, double: DrawMoments) -> bool:
    """Return True if float32 and float64 give a draw the same moments up to `MAX_ROUNDING`."""
    rms = double.values["preact_m2"].sqrt()
    for name, expected in double.values.items():
        scale = rms if name in SIGNED_QUANTITIES else expected
        error = (single.values[name] - expected).abs()
        if not bool(((error <= MAX_ROUNDING * scale) | (single.values[name] == expected)).all()):
            return False
    return True


def _is_precise(batches: Sequence[DrawMoments]) -> bool:
    """Return True if the mean logarithm of every moment over the images is known well enough.

    The mean is over the draws that are not 0. The error also contains that of their fraction.
    """
    for name, values in concatenate(batches).values.items():
        if name in SIGNED_QUANTITIES:
            continue
        fit = fit_distribution(values.mean(1).numpy())
        n_positive = len(values) * (1 - fit.zero_probability)
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.sqrt((fit.log_sd**2 + fit.zero_probability) / n_positive)
        unfitted = np.isnan(fit.log_sd) & np.isfinite(fit.value)  # few draws are not 0
        if (unfitted | (error > TARGET_LOG_SE)).any():
            return False
    return True


@torch.no_grad()
def _initialize(
    network: nn.Module, moments: Mapping[str, LayerMoments], stream: torch.Generator
) -> None:
    for name, layer in weight_layers(network).items():
        layer_moments = moments_of(moments, name)
        if layer_moments.dependence == "independent":
            layer.weight.copy_(_gaussian(layer.weight, layer_moments.weight, stream))
        else:
            layer.weight.copy_(_orthogonal(layer, layer_moments, stream))
        if layer.bias is not None:
            layer.bias.copy_(_gaussian(layer.bias, layer_moments.bias, stream))


def _gaussian(parameter: Tensor, moments: Moments, stream: torch.Generator) -> Tensor:
    # Float32 normals are five times as fast as float64 ones and have the same moments.
    z = torch.randn(parameter.shape, generator=stream).to(parameter.dtype)
    mean, var = (torch.as_tensor(x, dtype=torch.float64) for x in (moments.mean, moments.var))
    return mean.to(z) + var.sqrt().to(z) * z


def _orthogonal(layer: WeightLayer, moments: LayerMoments, stream: torch.Generator) -> Tensor:
    shape = WeightShape.of(layer)
    var = torch.as_tensor(moments.weight.var)
    per_group = moments.dependence == "orthogonal_per_group"
    # Different variances per tap mean that the kernel has one non-zero tap.
    scheme = Orthogonal(per_group) if var.ndim == 0 else DeltaOrthogonal()
    unit = torch.as_tensor(scheme.moments(shape).var)
    return (var.max() / unit.max()).sqrt() * scheme.sample(shape, stream)


def _set_dropout_masks(
    network: nn.Module, n_images: int, dtype: torch.dtype, stream: torch.Generator
) -> None:
    for module in network.modules():
        if isinstance(module, SeededDropout) and module.training:
            uniform = torch.rand((n_images, *module.features), generator=stream)
            module.mask = (uniform >= module.p).to(dtype) / (1 - module.p)


def _measure(
    network: nn.Module, images: Tensor, stream: torch.Generator, tracer: Tracer = trace
) -> DrawMoments:
    with torch.enable_grad():
        layers, logits = tracer(network, images)
        preacts = [layer.preactivation for layer in layers]
        u = random_cotangent(len(images), logits.flatten(1).shape[1], stream).reshape(logits.shape)
        cotangents = vjp(logits, preacts, u.to(logits.dtype))
    return draw_moments(
        preactivations=[y.detach()[None] for y in preacts],
        cotangents=[d[None] for d in cotangents],
        weight_gradients=[
            _weight_gradient(layer, d)[None] for layer, d in zip(layers, cotangents, strict=True)
        ],
    )


def _weight_gradient(layer: LayerTrace, cotangent: Tensor) -> Float[Tensor, " image"]:
    """Compute the mean square over the weights of each image's own gradient; 1 without weights."""
    module, x = layer.module, layer.input.detach()
    if module is None:
        return x.new_ones(len(x))
    if not isinstance(module, _ConvNd) and x.ndim == 2:
        return cotangent.square().mean(1) * x.square().mean(1)
    if not isinstance(module, _ConvNd):
        products = torch.einsum("npo,npi->noi", cotangent.flatten(1, -2), x.flatten(1, -2))
        return products.square().mean((1, 2))
    # Padded here, because the backward pass of a convolution pads with zeros only.
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = F.pad(x, module._reversed_padding_repeated_twice, mode=mode)
    no_padding = (0,) * len(module.kernel_size)
    squares = []
    for image, image_cotangent in zip(x.split(1), cotangent.split(1), strict=True):
        _, gradient, _ = torch.ops.aten.convolution_backward(
            *(image_cotangent, image, module.weight.detach(), None, module.stride, no_padding),
            *(module.dilation, False, no_padding, module.groups, (False, True, False)),
        )
        squares.append(gradient.square().mean())
    return torch.stack(squares)


@dataclass(frozen=True)
class DrawMoments:
    """Moments of each draw on each image."""

    values: Mapping[str, Float[Tensor, "draw image layer"]]

    def distributions(self) -> dict[str, DrawDistribution]:
        """Fit the distribution of one draw's moments, for every image and the mean over images."""
        return {name: _distribution(name, values) for name, values in self.values.items()}


def concatenate(batches: Sequence[DrawMoments]) -> DrawMoments:
    """Concatenate batches of draws."""
    names = batches[0].values
    return DrawMoments(
        {name: torch.cat([batch.values[name] for batch in batches]) for name in names}
    )


def draw_moments(
    preactivations: Sequence[Float[Tensor, "draw image ..."]],
    cotangents: Sequence[Float[Tensor, "draw image ..."]],
    weight_gradients: Sequence[Float[Tensor, "draw image"]],
) -> DrawMoments:
    """Compute the quantities of the `layers` table from pre-activations and cotangents of draws.

    Parameters
    ----------
    weight_gradients
        Mean squares over the weights.
    """
    preacts = [y.flatten(2) for y in preactivations]
    return DrawMoments(
        {
            "preact_m2": _stack_layers([y.square().mean(-1) for y in preacts]),
            "preact_mean": torch.stack([y.mean(-1) for y in preacts], -1).double(),
            "preact_var": _stack_layers([y.var(-1, correction=0) for y in preacts]),
            "vjp_m2": _stack_layers([d.flatten(2).square().mean(-1) for d in cotangents]),
            "weight_vjp_m2": _stack_layers(weight_gradients),
        }
    )


def _stack_layers(moments: Sequence[Tensor]) -> Tensor:
    """Stack to [draw, image, layer]; inf - inf and 0 * inf count as overflow."""
    return torch.stack(list(moments), -1).double().nan_to_num(nan=torch.inf, posinf=torch.inf)


def _distribution(name: str, values: Tensor) -> DrawDistribution:
    with np.errstate(over="ignore", invalid="ignore"):
        rows = torch.cat([values, values.mean(1, keepdim=True)], 1).numpy()
        if name in SIGNED_QUANTITIES:
            mean, se = rows.mean(0), rows.std(0, ddof=1) / len(rows) ** 0.5
            return DrawDistribution(mean, np.full_like(mean, np.nan), se, (rows == 0).mean(0))
        return fit_distribution(rows)
