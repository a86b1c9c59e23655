"""Per-image moments of a weight layer's outputs and gradients, in float64."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn import functional

from fanin.probes.trace import Layer

PerImage = Float[Tensor, "image"]
CHUNK = 64  # number of images whose weight gradients are in memory at the same time
CHUNK_ELEMENTS = 2**24  # the same for the patches of a convolution: number of elements


def second_moment(values: Float[Tensor, "image ..."]) -> PerImage:
    """Return each image's mean square, or inf if it overflows."""
    return _sum_of_squares(values.detach()) / values[0].numel()


def mean(values: Float[Tensor, "image ..."]) -> PerImage:
    """Return each image's mean."""
    return values.detach().flatten(1).mean(1, dtype=torch.float64)


def variance(values: Float[Tensor, "image ..."]) -> PerImage:
    """Return each image's population variance, or inf if the second moment overflows.

    It is computed from the differences to the mean. Subtracting the squared mean from the second
    moment would lose digits.
    """
    deviations = values.detach().double().flatten(1) - mean(values)[:, None]
    var, m2 = second_moment(deviations), second_moment(values)
    return torch.where(m2.isinf(), m2, var)


def _sum_of_squares(values: Float[Tensor, "image ..."]) -> PerImage:
    # Several times as fast as squaring a float64 copy.
    norm: Tensor = torch.linalg.vector_norm(values.flatten(1), dim=1, dtype=torch.float64)
    return norm.square()


def zero_fraction(values: Float[Tensor, "image ..."]) -> PerImage:
    """Return each image's fraction of exact zeros."""
    return (values.detach() == 0).double().flatten(1).mean(1)


def inactive_units(
    layer: nn.Module | None, values: Float[Tensor, "image ..."]
) -> Bool[Tensor, "image unit"]:
    """Return True where a unit is zero at all positions.

    Units are the last axis of a linear layer's output and the channels of other tensors.
    """
    zero = values.detach() == 0
    units_first = zero.movedim(-1, 1) if isinstance(layer, nn.Linear) else zero
    return units_first[..., None].flatten(2).all(2)


def input_correlation(values: Float[Tensor, "image ..."]) -> float:
    """Return the mean over pairs of images a, b of y_a.y_b / (|y_a| |y_b|), with y = `values`.

    Images whose values are all 0 are left out. The result is NaN for fewer than two images, or if a
    value overflowed.
    """
    flat = values.detach().double().flatten(1)
    largest = flat.abs().amax(1, keepdim=True)
    nonzero = largest[:, 0] != 0
    # Dividing by the largest entry first keeps the norm from overflowing.
    flat = flat[nonzero] / largest[nonzero]
    n = len(flat)
    if n < 2:
        return float("nan")
    sum_of_directions = _sum_of_squares(flat).rsqrt() @ flat
    return float((sum_of_directions.square().sum() - n) / (n * (n - 1)))


def weight_gradient_m2(
    layer: Layer, inputs: Float[Tensor, "image ..."], cotangent: Float[Tensor, "image ..."]
) -> PerImage:
    """Return the mean square of each image's gradient with respect to a layer's weight."""
    inputs, cotangent = inputs.detach(), cotangent.detach()
    if isinstance(layer, nn.Linear) and inputs.ndim == 2:
        # The mean square of an outer product is the product of the factors' mean squares.
        return second_moment(cotangent) * second_moment(inputs)
    if (
        isinstance(layer, nn.Conv2d)
        and layer.padding_mode == "zeros"
        and isinstance(layer.padding, tuple)
    ):
        return _conv_gradient_m2(layer, layer.padding, inputs, cotangent)
    return _differentiated_m2(layer, inputs, cotangent)


def _conv_gradient_m2(
    layer: nn.Conv2d,
    padding: tuple[int, ...],
    inputs: Float[Tensor, "image channel height width"],
    cotangent: Float[Tensor, "image unit row column"],
) -> PerImage:
    """Return the mean square of each image's weight gradient, by matrix products.

    The gradient is the sum over positions p of the outer products of the patch x_p and the
    cotangent d_p. With P positions it takes P fan_in units multiplications. Its squared norm is
    also the sum over p and q of (x_p . x_q) (d_p . d_q), which takes P^2 (fan_in + units).
    """
    fan_in, units = layer.weight[0].numel(), layer.out_channels // layer.groups
    positions = cotangent.shape[2:].numel()
    by_position = positions * (fan_in + units) < fan_in * units
    dtype = torch.float64 if by_position else inputs.dtype  # a difference of large numbers

    def squared_norms(x: Tensor, d: Tensor) -> PerImage:
        x, input_scale = _rescaled(x.to(dtype))
        d, scale = _rescaled(d.to(dtype).flatten(2))
        patches = functional.unfold(x, layer.kernel_size, layer.dilation, padding, layer.stride)
        patches, d = (t.unflatten(1, (layer.groups, -1)) for t in (patches, d))
        if by_position:
            norms = ((patches.mT @ patches) * (d.mT @ d)).sum((1, 2, 3))
        else:
            norms = _sum_of_squares(patches @ d.mT)
        return norms * (input_scale.double() * scale.double()).square()

    n = max(1, CHUNK_ELEMENTS // (layer.groups * fan_in * positions))  # images at once
    chunks = zip(inputs.split(n), cotangent.split(n), strict=True)
    return torch.cat([squared_norms(*chunk) for chunk in chunks]) / layer.weight.numel()


def _rescaled(values: Float[Tensor, "image ..."]) -> tuple[Float[Tensor, "image ..."], PerImage]:
    """Divide each image's values by the largest, so that no product overflows; return both."""
    scale = values.flatten(1).abs().amax(1)
    scale = torch.where(scale == 0, 1.0, scale)
    return values / scale.view(-1, *[1] * (values.ndim - 1)), scale


def _differentiated_m2(
    layer: Layer, inputs: Float[Tensor, "image ..."], cotangent: Float[Tensor, "image ..."]
) -> PerImage:
    """Return the mean square of each image's weight gradient, computed by differentiation."""
    weight = layer.weight.detach()
    fixed = {} if layer.bias is None else {"bias": layer.bias.detach()}

    def one_image(x: Tensor, cotangent_x: Tensor) -> Tensor:
        def run(w: Tensor) -> Tensor:
            output: Tensor = functional_call(layer, {"weight": w} | fixed, (x[None],))
            return output

        (gradient,) = vjp(run, weight)[1](cotangent_x[None])
        return gradient.double().square().mean()

    result: Tensor = vmap(one_image, chunk_size=CHUNK)(inputs, cotangent)
    return result


def random_cotangent(
    n_images: int, n_logits: int, generator: torch.Generator
) -> Float[Tensor, "image logit"]:
    """Return a random float64 direction u per image, with |u|^2 equal to the number of logits."""
    u = torch.randn(n_images, n_logits, generator=generator, dtype=torch.float64)
    return u * (n_logits**0.5 / u.norm(dim=1, keepdim=True))
