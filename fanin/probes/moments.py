"""Per-image moments of a weight layer's outputs and gradients, in float64."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from fanin.probes.trace import Layer

PerImage = Float[Tensor, "image"]
CHUNK = 64  # number of images whose weight gradients are in memory at the same time


def second_moment(values: Float[Tensor, "image ..."]) -> PerImage:
    """Return each image's mean square, or inf if it overflows."""
    return values.detach().double().flatten(1).square().mean(1)


def mean(values: Float[Tensor, "image ..."]) -> PerImage:
    """Return each image's mean."""
    return values.detach().double().flatten(1).mean(1)


def variance(values: Float[Tensor, "image ..."]) -> PerImage:
    """Return each image's population variance, or inf if the second moment overflows.

    It is computed from the differences to the mean. Subtracting the squared mean from the second
    moment would lose digits.
    """
    var = values.detach().double().flatten(1).var(1, correction=0)
    m2 = second_moment(values)
    return torch.where(m2.isinf(), m2, var)


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
    unit = flat / flat.norm(dim=1, keepdim=True)
    n = len(unit)
    if n < 2:
        return float("nan")
    total = unit.sum(0).square().sum() - unit.square().sum()
    return float(total / (n * (n - 1)))


def weight_gradient_m2(
    layer: Layer, inputs: Float[Tensor, "image ..."], cotangent: Float[Tensor, "image ..."]
) -> PerImage:
    """Return the mean square of each image's gradient with respect to a layer's weight."""
    inputs, cotangent = inputs.detach(), cotangent.detach()
    if isinstance(layer, nn.Linear) and inputs.ndim == 2:
        # The mean square of an outer product is the product of the factors' mean squares.
        return second_moment(cotangent) * second_moment(inputs)

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
