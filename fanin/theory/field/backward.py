"""Through what stands between two weight layers, backward: cotangents at the pre-activations.

With x = f(y), a cotangent g at x becomes J(y)^T g at y. Its second moments are averages over the
field y and over g, taken as independent (docs/derivations.md, section 4; Yang 2020).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fanin.seeds import generator
from fanin.theory.elementwise import Function, derivative
from fanin.theory.field.forward import (
    Place,
    before_and_after,
    closed_form_of,
    diagonal,
    field_chunks,
    field_normals,
    thinned,
    with_diagonal,
)
from fanin.theory.field.interlayer import ClosedForm, Interlayer
from fanin.theory.field.sampling import eigen_root, factor, signs, whitened
from fanin.theory.field.state import Coherent, Cotangent, Pairs, Points, Preactivation, pick
from fanin.theory.gaussian_pairs import pair_law
from fanin.theory.layer_kind import DropoutStep
from fanin.theory.mean_field import unit_moments
from fanin.theory.quadrature import COARSE, gaussian_nodes, most_nodes

TINY = torch.finfo(torch.float64).tiny
NODES_AT_ONCE = 2**17
COMPANIONS = 8  # fields that meet one draw of the cotangent that different channels share


def pull_back(
    between: Interlayer, made: Preactivation, received: Cotangent, *, samples: int, place: Place
) -> Cotangent:
    """Second moments of the cotangent at the pre-activations.

    Parameters
    ----------
    received
        At the end of the modules.
    samples
        Of each field, at least.
    place
        Of the random stream.
    """
    if received.coherent is not None:
        if between.mixes:
            return _sampled(between, made, received, samples, place)
        return _pointwise_coherent(between, made, received, samples, place)
    form = closed_form_of(between, made)
    if between.mixes:
        if form is not None:
            return _closed(between, form, made, received)
        return _sampled(between, made, received, samples, place)
    units = unit_moments(between.pointwise_layers, *torch.broadcast_tensors(made.mean, made.var))
    m2 = received.m2 * units.slope_m2
    if received.products is None:
        return Cotangent(m2)
    products = received.products * _slope_products(between, form, made, samples, place)
    return Cotangent(m2, with_diagonal(_thinned(between, products), m2))


def _thinned(between: Interlayer, products: Pairs) -> Pairs:
    for step in between.steps:
        if isinstance(step, DropoutStep):
            products = thinned(products, step, between.images)
    return products


def _pointwise_coherent(
    between: Interlayer, made: Preactivation, received: Cotangent, samples: int, place: Place
) -> Cotangent:
    """Elementwise modules, where channels have part of their cotangent in common."""
    assert received.coherent is not None
    common = received.coherent
    own = received.matrix + common.shared
    means = _response_moments(between.pointwise, *torch.broadcast_tensors(made.mean, made.var))
    pairs = _response_products(between, made, samples, place)
    products = pairs.slope * own + pairs.force * common.response
    mixed = pairs.cross * common.cross
    products = _thinned(between, products + mixed + mixed.mT)

    def at_points(x: Tensor) -> Tensor:
        return x.diagonal(dim1=-2, dim2=-1)

    m2 = means.slope_m2 * at_points(own) + means.force_m2 * at_points(common.response)
    m2 = m2 + 2 * means.cross_m2 * at_points(common.cross)
    m2 = m2 * math.prod(s.growth for s in between.steps if isinstance(s, DropoutStep))

    def carried(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> Pairs:
        (a, b), (c, d) = left, right
        rows, columns = (a[..., :, None], b[..., :, None]), (c[..., None, :], d[..., None, :])
        return (
            rows[0] * common.shared * columns[0]
            + rows[0] * common.cross * columns[1]
            + rows[1] * common.cross.mT * columns[0]
            + rows[1] * common.response * columns[1]
        )

    shared, response = (means.slope, means.force), (means.bend, means.force_slope)
    coherent = Coherent(
        carried(shared, shared), carried(shared, response), carried(response, response)
    )
    return Cotangent(m2, with_diagonal(products, m2), coherent)


@dataclass(frozen=True)
class _Products:
    """E over a field of phi' phi'', of phi' (phi phi')'' and of (phi phi') (phi phi')''."""

    slope: Pairs
    cross: Pairs
    force: Pairs


def _response_products(
    between: Interlayer, made: Preactivation, samples: int, place: Place
) -> _Products:
    z = field_normals(between, made, samples, *place, "slopes")
    found: list[list[Tensor]] = [[], [], []]
    for _, root, mean in field_chunks(made, len(z)):
        fields = (z @ root.mT + mean[:, None]).flatten(0, 1)
        value, slope = derivative(between.pointwise, fields)
        slope = slope.unflatten(0, (len(root), len(z)))
        force = slope * value.unflatten(0, (len(root), len(z)))
        for pairs, (a, b) in zip(
            found, ((slope, slope), (slope, force), (force, force)), strict=True
        ):
            pairs.append(a.mT @ b / len(z))
    return _Products(*(torch.cat(pairs).unflatten(0, made.field_shape) for pairs in found))


def _slope_products(
    between: Interlayer, form: ClosedForm | None, made: Preactivation, samples: int, place: Place
) -> Pairs:
    """E[phi'(y(p)) phi'(y(p'))]."""
    if form is not None:
        return pair_law(form.function).slope_covariance(made.covariance, made.var, made.var)
    z = field_normals(between, made, samples, *place, "slopes")
    products = []
    for _, root, mean in field_chunks(made, len(z)):
        fields = (z @ root.mT + mean[:, None]).flatten(0, 1)
        _, slope = derivative(between.pointwise, fields)
        slope = slope.unflatten(0, (len(root), len(z)))
        products.append(slope.mT @ slope / len(z))
    return torch.cat(products).unflatten(0, made.field_shape)


def _closed(
    between: Interlayer, form: ClosedForm, made: Preactivation, received: Cotangent
) -> Cotangent:
    before, after = before_and_after(between, form)
    products = received.matrix
    for step in after[::-1]:
        if isinstance(step, DropoutStep):
            products = thinned(products, step, between.images)
        else:
            products = step @ products @ step.mT
    cov = made.covariance
    for matrix in before:
        cov = matrix.mT @ cov @ matrix
    var = diagonal(cov)
    law = pair_law(form.function)
    m2 = diagonal(products) * law.slope_m2(var)
    products = with_diagonal(products * law.slope_covariance(cov, var, var), m2)
    for matrix in before[::-1]:
        products = matrix @ products @ matrix.mT
    return Cotangent(diagonal(products), products)


def _sampled(
    between: Interlayer, made: Preactivation, received: Cotangent, samples: int, place: Place
) -> Cotangent:
    z = whitened(samples, made.rank, *place, "back")
    z = z[: len(z) - len(z) % COMPANIONS]
    draw = _directions(received, made, len(z), (*place, "cotangent"))
    in_pairs = received.products is not None or not between.routes_only
    m2, products, coherent = [], [], []
    for index, root, mean in field_chunks(made, len(z)):
        deviations = (z @ root.mT).requires_grad_()
        with torch.enable_grad():
            fields = (deviations + mean[:, None]).flatten(0, 1)
            x = between.apply(fields, generator("masks", *place), len(root))
            x = x.unflatten(0, (len(root), len(z)))
            (d,) = torch.autograd.grad(x, deviations, draw(index, x.detach()))
        m2.append(d.square().mean(1))
        if in_pairs:
            products.append(d.mT @ d / len(z))
        if received.coherent is not None:
            var = pick(made.var, made.field_shape, index)[:, None]
            # Stein: E[d delta / dy] = E[delta (y - m)] / var.
            bend = torch.where(var > 0, d * deviations.detach() / var.clamp(min=TINY), 0.0)
            coherent.append([_in_common(*pair) for pair in ((d, d), (d, bend), (bend, bend))])

    def joined(found: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(found)).unflatten(0, made.field_shape)

    return Cotangent(
        joined(m2),
        joined(products) if products else None,
        Coherent(*map(joined, zip(*coherent, strict=True))) if coherent else None,
    )


def _directions(
    received: Cotangent, made: Preactivation, count: int, place: Place
) -> Callable[[slice, Tensor], Tensor]:
    """Draws of the received cotangent for some fields, whose fields became x.

    What different channels have in common is drawn once for each company of consecutive samples.
    """
    points = received.m2.shape[-1]
    if received.products is None:
        # Uncorrelated points: signs have the same second moments as normals, and no scatter.
        sign, size = signs(count, points, *place), received.m2.sqrt()
        return lambda index, _: sign * pick(size, made.field_shape, index)[:, None]
    own = factor(received.products)
    z = whitened(count, points, *place)[:count]
    if received.coherent is None:
        return lambda index, _: z @ pick(own, made.field_shape, index).mT
    companies = count // COMPANIONS
    lead = min(2 * points, companies // 4)  # directions that carry most, exactly as they are
    first = whitened(companies, lead, *place, "shared")[:companies]
    stream = generator("shared", *place)
    rest = torch.randn(companies, 2 * points - lead, generator=stream, dtype=torch.float64)
    normals, root = torch.cat([first, rest], -1), eigen_root(received.coherent.joint)

    def all_parts(index: slice, x: Tensor) -> Tensor:
        common = (normals @ pick(root, made.field_shape, index).mT).repeat_interleave(COMPANIONS, 1)
        shared, response = common.split(points, -1)
        return z @ pick(own, made.field_shape, index).mT + shared + response * x

    return all_parts


def _in_common(a: Tensor, b: Tensor) -> Tensor:
    """E[a_j b_k] from the pairs of fields that met the same common cotangent."""
    sums = [x.unflatten(1, (-1, COMPANIONS)).sum(2) for x in (a, b)]
    pairs = sums[0].mT @ sums[1] - a.mT @ b
    return pairs / (sums[0].shape[1] * COMPANIONS * (COMPANIONS - 1))


@dataclass(frozen=True)
class _ResponseMoments:
    """Expectations over y ~ N(mean, var).

    Attributes
    ----------
    slope, force
        E[phi'] and E[phi phi'].
    bend, force_slope
        E[phi''] and E[(phi phi')'], by Stein's lemma E[f'(y)] = E[f(y) (y - mean)] / var, which
        holds at kinks too.
    slope_m2, cross_m2, force_m2
        E[phi'^2], E[phi phi'^2] and E[phi^2 phi'^2].
    """

    slope: Points
    force: Points
    bend: Points
    force_slope: Points
    slope_m2: Points
    cross_m2: Points
    force_m2: Points


def _response_moments(function: Function, mean: Points, var: Points) -> _ResponseMoments:
    """Moments of an elementwise function's slope and of its product with the function."""
    chunk = max(1, NODES_AT_ONCE // most_nodes(COARSE))
    chunks = zip(mean.flatten().split(chunk), var.flatten().split(chunk), strict=True)
    parts = [_response_chunk(function, m, v) for m, v in chunks]
    return _ResponseMoments(
        *(torch.cat(part).reshape(mean.shape) for part in zip(*parts, strict=True))
    )


def _response_chunk(function: Function, mean: Tensor, var: Tensor) -> tuple[Tensor, ...]:
    y, weight = gaussian_nodes(mean, var, COARSE)
    value, slope = derivative(function, y)
    force = value * slope
    # Where nothing varies, nothing can answer either.
    score = torch.where(var > 0, 1 / var, 0.0)[:, None] * (y - mean[:, None])

    def average(x: Tensor) -> Tensor:
        return (weight * x).sum(-1)

    return (
        average(slope),
        average(force),
        average(slope * score),
        average(force * score),
        average(slope.square()),
        average(slope * force),
        average(force.square()),
    )
