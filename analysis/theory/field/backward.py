"""Through what stands between two weight layers, backward: cotangents at the pre-activations.

With x = f(y), a cotangent g at x becomes J(y)^T g at y. Its second moments are averages over the
field y and over g, taken as independent (THEORY.md, section 4; Yang 2020).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from analysis.theory.elementwise import derivative
from analysis.theory.field.between import Between, Parts, Thinning
from analysis.theory.field.forward import (
    Place,
    before_and_after,
    closed_parts,
    diagonal,
    field_normals,
    thinned,
    with_diagonal,
    worlds,
)
from analysis.theory.field.normals import eigen_root, factor, signs, whitened
from analysis.theory.field.state import Cotangent, Made, Pairs, pick
from analysis.theory.pairs import pair_law
from analysis.theory.units import unit_moments
from experiments.seeds import generator

COMPANIONS = 8  # fields that meet one draw of the cotangent that different channels share


def pull_back(
    between: Between, made: Made, received: Cotangent, *, samples: int, place: Place
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
    parts = closed_parts(between, made)
    if between.mixes:
        if parts is not None:
            return _closed(between, parts, made, received)
        return _sampled(between, made, received, samples, place)
    units = unit_moments(between.modules, *torch.broadcast_tensors(made.mean, made.var))
    m2 = received.m2 * units.slope_m2
    if received.products is None:
        return Cotangent(m2)
    products = received.products * _slope_products(between, parts, made, samples, place)
    for step in between.steps:
        if isinstance(step, Thinning):
            products = thinned(products, step, between.images)
    return Cotangent(m2, with_diagonal(products, m2), _shared(received.shared, units.slope_mean))


def _shared(shared: Pairs | None, slope: Tensor) -> Pairs | None:
    """Different channels' slopes are independent, given the field's mean."""
    return None if shared is None else shared * slope[..., :, None] * slope[..., None, :]


def _slope_products(
    between: Between, parts: Parts | None, made: Made, samples: int, place: Place
) -> Pairs:
    """E[phi'(y(p)) phi'(y(p'))]."""
    if parts is not None:
        return pair_law(parts.function).slope_covariance(made.covariance, made.var, made.var)
    z = field_normals(between, made, samples, *place, "slopes")
    products = []
    for _, root, mean in worlds(made, len(z)):
        fields = (z @ root.mT + mean[:, None]).flatten(0, 1)
        _, slope = derivative(between.pointwise, fields)
        slope = slope.unflatten(0, (len(root), len(z)))
        products.append(slope.mT @ slope / len(z))
    return torch.cat(products).unflatten(0, made.worlds)


def _closed(between: Between, parts: Parts, made: Made, received: Cotangent) -> Cotangent:
    before, after = before_and_after(between, parts)
    products, shared = received.matrix, received.shared
    for step in after[::-1]:
        if isinstance(step, Thinning):
            products = thinned(products, step, between.images)
        else:
            products, shared = step @ products @ step.mT, _through(step, shared)
    cov = made.covariance
    for matrix in before:
        cov = matrix.mT @ cov @ matrix
    var = diagonal(cov)
    law = pair_law(parts.function)
    m2 = diagonal(products) * law.slope_m2(var)
    products = with_diagonal(products * law.slope_covariance(cov, var, var), m2)
    if shared is not None:
        mean = made.mean.flatten()[0].expand(var.shape)  # one number, in closed forms
        slope = unit_moments(between.functions, mean, var).slope_mean
        shared = _shared(shared, slope)
    for matrix in before[::-1]:
        products, shared = matrix @ products @ matrix.mT, _through(matrix, shared)
    return Cotangent(diagonal(products), products, shared)


def _through(matrix: Tensor, pairs: Pairs | None) -> Pairs | None:
    return None if pairs is None else matrix @ pairs @ matrix.mT


def _sampled(
    between: Between, made: Made, received: Cotangent, samples: int, place: Place
) -> Cotangent:
    z = whitened(samples, made.rank, *place, "back")
    z = z[: len(z) - len(z) % COMPANIONS]
    draw = _directions(received, made, len(z), (*place, "cotangent"))
    in_pairs = received.products is not None or not between.routes_only
    m2, products, shared = [], [], []
    for index, root, mean in worlds(made, len(z)):
        fields = (z @ root.mT + mean[:, None]).flatten(0, 1).requires_grad_()
        with torch.enable_grad():
            x = between.apply(fields, generator("masks", *place))
            (d,) = torch.autograd.grad(x, fields, draw(index).flatten(0, 1))
        d = d.unflatten(0, (len(root), len(z)))
        m2.append(d.square().mean(1))
        if in_pairs:
            products.append(d.mT @ d / len(z))
        if received.shared is not None:
            shared.append(_among_companions(d))

    def joined(found: list[Tensor]) -> Tensor | None:
        return torch.cat(found).unflatten(0, made.worlds) if found else None

    return Cotangent(torch.cat(m2).unflatten(0, made.worlds), joined(products), joined(shared))


def _directions(
    received: Cotangent, made: Made, count: int, place: Place
) -> Callable[[slice], Tensor]:
    """Draws of the received cotangent for some of the worlds: [world, sample, point].

    What different channels share is drawn once for each company of consecutive samples.
    """
    points = received.m2.shape[-1]
    if received.products is None:
        # Uncorrelated points: signs have the same second moments as normals, and no scatter.
        sign, size = signs(count, points, *place), received.m2.sqrt()
        return lambda index: sign * pick(size, made.worlds, index)[:, None]
    shared = received.shared
    own = factor(received.products if shared is None else received.products - shared)
    z = whitened(count, points, *place)[:count]
    if shared is None:
        return lambda index: z @ pick(own, made.worlds, index).mT
    companies = count // COMPANIONS
    lead = min(points, companies // 4)  # directions that carry most, exactly as large as they are
    first = whitened(companies, lead, *place, "shared")[:companies]
    stream = generator("shared", *place)
    rest = torch.randn(companies, points - lead, generator=stream, dtype=torch.float64)
    common, root = torch.cat([first, rest], -1), eigen_root(shared)

    def both(index: slice) -> Tensor:
        together = common @ pick(root, made.worlds, index).mT
        return z @ pick(own, made.worlds, index).mT + together.repeat_interleave(COMPANIONS, 1)

    return both


def _among_companions(d: Tensor) -> Tensor:
    """E[d_j d_k] from the pairs of fields that met the same shared cotangent."""
    sums = d.unflatten(1, (-1, COMPANIONS)).sum(2)
    pairs = sums.mT @ sums - d.mT @ d
    return pairs / (sums.shape[1] * COMPANIONS * (COMPANIONS - 1))
