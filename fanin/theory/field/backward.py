"""Cotangents backward through the modules between two weight layers.

With x = f(y) and J the Jacobian of f, a cotangent g at x becomes J(y)^T g at y. Its second moments
are averages over the field y and over g, which are treated as independent
(docs/appendix/derivations.md, section 4; Yang 2020).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fanin.seeds import make_generator
from fanin.theory.elementwise import Function, derivative, vjp
from fanin.theory.field.channel_pairs import (
    FIELDS_PER_DRAW,
    ChannelPairs,
    concatenate,
    shared_samples,
)
from fanin.theory.field.forward import (
    StreamKey,
    apply_dropout,
    closed_form_for,
    diagonal,
    field_chunks,
    field_normals,
    linear_matrices,
    replace_diagonal,
)
from fanin.theory.field.interlayer import ClosedForm, Interlayer
from fanin.theory.field.sampling import factor, float32_products, random_signs, whitened
from fanin.theory.field.state import (
    Cotangent,
    Pairs,
    Points,
    Preactivation,
    select_fields,
)
from fanin.theory.gaussian_pairs import pair_expectations
from fanin.theory.layer_kind import DropoutStep
from fanin.theory.mean_field import unit_moments
from fanin.theory.quadrature import COARSE, gaussian_nodes, max_nodes

TINY = torch.finfo(torch.float64).tiny
NODES_AT_ONCE = 2**17


def interlayer_backward(
    interlayer: Interlayer,
    preact: Preactivation,
    output_cotangent: Cotangent,
    *,
    channel_pairs: ChannelPairs,
    samples: int,
    key: StreamKey,
) -> Cotangent:
    """Compute the second moments of the cotangent at the pre-activations.

    Parameters
    ----------
    output_cotangent
        Moments of the cotangent at the output of the modules.
    channel_pairs
        Pairs of channels that the same group of the next layer reads.
    samples
        Minimum number of samples of each field.
    key
        Key of the random stream.
    """
    if output_cotangent.shared is not None:
        if interlayer.mixes_points:
            return _backward_sampled(
                interlayer, preact, output_cotangent, channel_pairs, samples, key
            )
        return _pointwise_shared(interlayer, preact, output_cotangent, channel_pairs, samples, key)
    form = closed_form_for(interlayer, preact)
    if interlayer.mixes_points:
        if form is not None:
            return _backward_closed_form(interlayer, form, preact, output_cotangent)
        return _backward_sampled(interlayer, preact, output_cotangent, channel_pairs, samples, key)
    units = unit_moments(
        interlayer.pointwise_layers, *torch.broadcast_tensors(preact.mean, preact.var)
    )
    m2 = output_cotangent.m2 * units.slope_m2
    if output_cotangent.products is None:
        return Cotangent(m2)
    products = output_cotangent.products * _slope_products(interlayer, form, preact, samples, key)
    return Cotangent(m2, replace_diagonal(_apply_dropouts(interlayer, products), m2))


def _apply_dropouts(interlayer: Interlayer, products: Pairs) -> Pairs:
    for step in interlayer.steps:
        if isinstance(step, DropoutStep):
            products = apply_dropout(products, step, interlayer.images_per_field)
    return products


def _pointwise_shared(
    interlayer: Interlayer,
    preact: Preactivation,
    output_cotangent: Cotangent,
    channel_pairs: ChannelPairs,
    samples: int,
    key: StreamKey,
) -> Cotangent:
    """Compute the moments for elementwise modules if channels share a part of their cotangent."""
    assert output_cotangent.shared is not None
    shared = output_cotangent.shared
    own = output_cotangent.full_products + shared.additive
    moments = _response_moments(
        interlayer.pointwise, *torch.broadcast_tensors(preact.mean, preact.var)
    )
    expected = _response_products(interlayer, preact, samples, key)
    products = torch.addcmul(expected.slope * own, expected.value_slope, shared.response)
    cross = expected.cross * shared.cross
    products = _apply_dropouts(interlayer, products.add_(cross).add_(cross.mT))

    def diagonal_of(x: Tensor) -> Tensor:
        return x.diagonal(dim1=-2, dim2=-1)

    m2 = moments.slope_m2 * diagonal_of(own) + moments.value_slope_m2 * diagonal_of(shared.response)
    m2 = m2 + 2 * moments.cross_m2 * diagonal_of(shared.cross)
    m2 = m2 * math.prod(s.growth for s in interlayer.steps if isinstance(s, DropoutStep))

    propagated = channel_pairs.elementwise(
        shared,
        (moments.slope, moments.value_slope),
        (moments.slope_derivative, moments.value_slope_derivative),
    )
    return Cotangent(m2, replace_diagonal(products, m2), propagated)


@dataclass(frozen=True)
class _ResponseProducts:
    """Averages over the field y of products at two points p and p'; phi is the activation.

    Attributes
    ----------
    slope
        E[phi'(y_p) phi'(y_p')].
    cross
        E[phi'(y_p) phi(y_p') phi'(y_p')].
    value_slope
        E[phi(y_p) phi'(y_p) phi(y_p') phi'(y_p')].
    """

    slope: Pairs
    cross: Pairs
    value_slope: Pairs


def _response_products(
    interlayer: Interlayer, preact: Preactivation, samples: int, key: StreamKey
) -> _ResponseProducts:
    z = field_normals(interlayer, preact, samples, *key, "slopes")
    results: list[list[Tensor]] = [[], [], []]
    for _, root, mean in field_chunks(preact, len(z)):
        fields = (z @ root.mT + mean[:, None]).flatten(0, 1)
        value, slope = derivative(interlayer.pointwise, fields)
        slope = slope.unflatten(0, (len(root), len(z)))
        value_slope = slope * value.unflatten(0, (len(root), len(z)))
        for chunks, (a, b) in zip(
            results, ((slope, slope), (slope, value_slope), (value_slope, value_slope)), strict=True
        ):
            chunks.append(float32_products(a, b))
    return _ResponseProducts(
        *(torch.cat(chunks).unflatten(0, preact.field_shape) for chunks in results)
    )


def _slope_products(
    interlayer: Interlayer,
    form: ClosedForm | None,
    preact: Preactivation,
    samples: int,
    key: StreamKey,
) -> Pairs:
    """Compute E[phi'(y(p)) phi'(y(p'))]."""
    if form is not None:
        return pair_expectations(form.function).slope_covariance(
            preact.covariance, preact.var, preact.var
        )
    z = field_normals(interlayer, preact, samples, *key, "slopes")
    products = []
    for _, root, mean in field_chunks(preact, len(z)):
        fields = (z @ root.mT + mean[:, None]).flatten(0, 1)
        _, slope = derivative(interlayer.pointwise, fields)
        slope = slope.unflatten(0, (len(root), len(z)))
        products.append(slope.mT @ slope / len(z))
    return torch.cat(products).unflatten(0, preact.field_shape)


def _backward_closed_form(
    interlayer: Interlayer, form: ClosedForm, preact: Preactivation, output_cotangent: Cotangent
) -> Cotangent:
    before, after = linear_matrices(interlayer, form)
    products = output_cotangent.full_products
    for step in after[::-1]:
        if isinstance(step, DropoutStep):
            products = apply_dropout(products, step, interlayer.images_per_field)
        else:
            products = step @ products @ step.mT
    cov = preact.covariance
    for matrix in before:
        cov = matrix.mT @ cov @ matrix
    var = diagonal(cov)
    pair = pair_expectations(form.function)
    m2 = diagonal(products) * pair.slope_m2(var)
    products = replace_diagonal(products * pair.slope_covariance(cov, var, var), m2)
    for matrix in before[::-1]:
        products = matrix @ products @ matrix.mT
    return Cotangent(diagonal(products), products)


def _backward_sampled(
    interlayer: Interlayer,
    preact: Preactivation,
    output_cotangent: Cotangent,
    channel_pairs: ChannelPairs,
    samples: int,
    key: StreamKey,
) -> Cotangent:
    z = whitened(samples, preact.rank, *key, "back")
    z = z[: len(z) - len(z) % FIELDS_PER_DRAW]
    draw_cotangent = _cotangent_sampler(output_cotangent, preact, len(z), (*key, "cotangent"))
    images, _, groups = preact.field_shape
    one_reader = output_cotangent.shared is None or output_cotangent.shared.across is None
    needs_products = output_cotangent.products is not None or not interlayer.routes_only
    m2, products, shared = [], [], []
    for index, root, mean in field_chunks(preact, len(z)):
        deviations = (z @ root.mT).requires_grad_()
        with torch.enable_grad():
            fields = (deviations + mean[:, None]).flatten(0, 1)
            x = interlayer.apply(fields, make_generator("masks", *key), len(root))
            x = x.unflatten(0, (len(root), len(z)))
            (d,) = vjp(x, [deviations], draw_cotangent(index, x.detach()))
        m2.append(d.square().mean(1))
        if needs_products:
            products.append(d.mT @ d / len(z))
        if output_cotangent.shared is not None:
            var = select_fields(preact.var, preact.field_shape, index)[:, None]
            # Stein: E[d delta / dy] = E[delta (y - m)] / var.
            slope_derivative = torch.where(
                var > 0, d * deviations.detach() / var.clamp(min=TINY), 0.0
            )
            shared.append(channel_pairs.sampled(d, slope_derivative, groups, one_reader=one_reader))

    def stack_fields(results: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(results)).unflatten(0, preact.field_shape)

    return Cotangent(
        stack_fields(m2),
        stack_fields(products) if products else None,
        concatenate(shared, images) if shared else None,
    )


def _cotangent_sampler(
    output_cotangent: Cotangent, preact: Preactivation, n_samples: int, key: StreamKey
) -> Callable[[slice, Tensor], Tensor]:
    """Return a function that samples the output cotangent for some fields and their outputs x."""
    points = output_cotangent.m2.shape[-1]
    if output_cotangent.products is None:
        # If points are uncorrelated, random signs have the same second moments as normals, and
        # without sampling noise.
        sign, rms = random_signs(n_samples, points, *key), output_cotangent.m2.sqrt()
        return lambda index, _: sign * select_fields(rms, preact.field_shape, index)[:, None]
    own = factor(output_cotangent.products)
    z = whitened(n_samples, points, *key)[:n_samples]
    if output_cotangent.shared is None:
        return lambda index, _: z @ select_fields(own, preact.field_shape, index).mT
    draw_shared = shared_samples(output_cotangent.shared, preact.field_shape, n_samples, key)

    def sample(index: slice, x: Tensor) -> Tensor:
        additive, response = draw_shared(index).split(points, -1)
        return z @ select_fields(own, preact.field_shape, index).mT + additive + response * x

    return sample


@dataclass(frozen=True)
class _ResponseMoments:
    """Expectations over y ~ N(mean, var); phi is the activation.

    Attributes
    ----------
    slope, value_slope
        E[phi'] and E[phi phi'].
    slope_derivative, value_slope_derivative
        E[phi''] and E[(phi phi')'], by Stein's lemma E[f'(y)] = E[f(y) (y - mean)] / var, which
        also holds at kinks.
    slope_m2, cross_m2, value_slope_m2
        E[phi'^2], E[phi phi'^2] and E[phi^2 phi'^2].
    """

    slope: Points
    value_slope: Points
    slope_derivative: Points
    value_slope_derivative: Points
    slope_m2: Points
    cross_m2: Points
    value_slope_m2: Points


def _response_moments(function: Function, mean: Points, var: Points) -> _ResponseMoments:
    """Compute the moments of an elementwise function's slope and of value times slope."""
    chunk = max(1, NODES_AT_ONCE // max_nodes(COARSE))
    chunks = zip(mean.flatten().split(chunk), var.flatten().split(chunk), strict=True)
    parts = [_response_chunk(function, m, v) for m, v in chunks]
    return _ResponseMoments(
        *(torch.cat(part).reshape(mean.shape) for part in zip(*parts, strict=True))
    )


def _response_chunk(function: Function, mean: Tensor, var: Tensor) -> tuple[Tensor, ...]:
    y, weight = gaussian_nodes(mean, var, COARSE)
    value, slope = derivative(function, y)
    value_slope = value * slope
    # A unit without variance has no derivative with respect to its pre-activation.
    score = torch.where(var > 0, 1 / var, 0.0)[:, None] * (y - mean[:, None])

    def average(x: Tensor) -> Tensor:
        return (weight * x).sum(-1)

    return (
        average(slope),
        average(value_slope),
        average(slope * score),
        average(value_slope * score),
        average(slope.square()),
        average(slope * value_slope),
        average(value_slope.square()),
    )
