"""Per-image moments of what a weight layer saw, made and received back; all in float64."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from fanin.probes.trace import Layer

PerImage = Float[Tensor, "image"]
CHUNK = 64  # images whose weight gradients are held at once


def second_moment(values: Float[Tensor, "image ..."]) -> PerImage:
    """Mean square over everything but images; inf where it overflowed on the way."""
    return values.detach().double().flatten(1).square().mean(1)


def mean(values: Float[Tensor, "image ..."]) -> PerImage:
    """Mean over everything but images."""
    return values.detach().double().flatten(1).mean(1)


def variance(values: Float[Tensor, "image ..."]) -> PerImage:
    """Population variance over everything but images; inf where the second moment overflowed.

    It is the second moment minus the squared mean, computed without their cancellation.
    """
    spread = values.detach().double().flatten(1).var(1, correction=0)
    second = second_moment(values)
    return torch.where(second.isinf(), second, spread)


def zero_fraction(values: Float[Tensor, "image ..."]) -> PerImage:
    """Share of exact zeros."""
    return (values.detach() == 0).double().flatten(1).mean(1)


def inactive_units(
    layer: nn.Module, values: Float[Tensor, "image ..."]
) -> Bool[Tensor, "image unit"]:
    """Return True where a unit of a layer is zero at all its positions.

    Units are a linear layer's last axis, and the channels of a convolution.
    """
    zero = values.detach() == 0
    units_first = zero.movedim(-1, 1) if isinstance(layer, nn.Linear) else zero
    return units_first[..., None].flatten(2).all(2)


def input_correlation(values: Float[Tensor, "image ..."]) -> float:
    """Mean over pairs of images of y_a.y_b / (|y_a| |y_b|), c in THEORY's k / sqrt(q_a q_b).

    Images on which the layer is silent have no direction and are left out. NaN below two images,
    and where an image's values overflowed.
    """
    flat = values.detach().double().flatten(1)
    largest = flat.abs().amax(1, keepdim=True)
    heard = largest[:, 0] != 0
    # Dividing by the largest entry first keeps the norm from overflowing.
    flat = flat[heard] / largest[heard]
    unit = flat / flat.norm(dim=1, keepdim=True)
    n = len(unit)
    if n < 2:
        return float("nan")
    total = unit.sum(0).square().sum() - unit.square().sum()
    return float(total / (n * (n - 1)))


def weight_gradient_m2(
    layer: Layer, inputs: Float[Tensor, "image ..."], cotangent: Float[Tensor, "image ..."]
) -> PerImage:
    """Mean square over a layer's weight of each image's own gradient with respect to it."""
    inputs, cotangent = inputs.detach(), cotangent.detach()
    if isinstance(layer, nn.Linear) and inputs.ndim == 2:
        # An outer product: its mean square is the product of the factors' mean squares.
        return second_moment(cotangent) * second_moment(inputs)

    weight = layer.weight.detach()
    fixed = {} if layer.bias is None else {"bias": layer.bias.detach()}

    def one_image(x: Tensor, cotangent_x: Tensor) -> Tensor:
        def run(w: Tensor) -> Tensor:
            made: Tensor = functional_call(layer, {"weight": w} | fixed, (x[None],))
            return made

        (gradient,) = vjp(run, weight)[1](cotangent_x[None])
        return gradient.double().square().mean()

    result: Tensor = vmap(one_image, chunk_size=CHUNK)(inputs, cotangent)
    return result


def random_cotangent(
    n_images: int, n_logits: int, generator: torch.Generator
) -> Float[Tensor, "image logit"]:
    """One random direction an image, |u|^2 = the number of logits (not 1), float64."""
    u = torch.randn(n_images, n_logits, generator=generator, dtype=torch.float64)
    return u * (n_logits**0.5 / u.norm(dim=1, keepdim=True))
