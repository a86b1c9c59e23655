"""Moments of a Gaussian field forward through the modules between two weight layers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fanin.seeds import make_generator
from fanin.theory.elementwise import Function
from fanin.theory.field.interlayer import ClosedForm, Interlayer
from fanin.theory.field.sampling import antithetic, factor, whitened
from fanin.theory.field.state import LayerInput, Pairs, Points, Preactivation, select_fields
from fanin.theory.gaussian_pairs import pair_expectations
from fanin.theory.layer_kind import DropoutStep, Mixing
from fanin.theory.mean_field import UnitMoments, unit_moments
from fanin.theory.quadrature import COARSE, gaussian_nodes, max_nodes

MAX_NUMBERS = 2**24  # numbers in one tensor of samples: 128 MB
NEAR_ZERO = torch.tensor([-3.0, -1.0, -0.1, -1e-3, 1e-3, 0.1, 1.0, 3.0], dtype=torch.float64)
"""Test points: a function that is 0 on an interval, as ReLU is, is 0 at one of them."""
NEGLIGIBLE = 1e-9  # a fraction of units too small to observe in any network
# Samples of each particle's field, if the moments of single points come from quadrature.
SAMPLES_PER_PARTICLE = 256
StreamKey = tuple[object, ...]
"""Key of a random stream: seed, repeat, layer."""


def interlayer_forward(
    interlayer: Interlayer,
    preact: Preactivation,
    *,
    needs_products: bool,
    samples: int,
    key: StreamKey,
) -> LayerInput:
    """Compute the moments of one channel at the output of the modules.

    The method is a closed form if linear modules surround at most one elementwise function and the
    mean is constant, quadrature if only moments of single points are needed, and sampling
    otherwise.

    Parameters
    ----------
    needs_products
        Also compute E[x(p) x(p')] for all pairs of points.
    samples
        Minimum number of samples of each field.
    key
        Key of the random stream.
    """
    form = closed_form_for(interlayer, preact)
    if interlayer.mixes_points:
        if form is not None:
            return _forward_closed_form(interlayer, form, preact)
        return _forward_sampled(interlayer, preact, samples, key)
    mean, var = torch.broadcast_tensors(preact.mean, preact.var)
    units = unit_moments(interlayer.pointwise_layers, mean, var)
    if not needs_products:
        return LayerInput(units.mean, units.m2, None)
    if form is None:
        _, cov = _sample_moments(interlayer, preact, samples, key)
        return _match_unit_moments(cov, units)
    products = pair_expectations(form.function).covariance(
        preact.covariance, preact.var, preact.var
    )
    for step in form.after:
        assert isinstance(step, DropoutStep)
        products = apply_dropout(products, step, interlayer.images_per_field)
    return LayerInput(units.mean, units.m2, replace_diagonal(products, units.m2))


def closed_form_for(interlayer: Interlayer, preact: Preactivation) -> ClosedForm | None:
    """Return the modules as steps with closed forms; None if they need sampling."""
    return None if preact.constant_mean is None else interlayer.closed_form(preact.constant_mean)


def step_matrices(
    interlayer: Interlayer, steps: tuple[Mixing | DropoutStep, ...], positions: tuple[int, ...]
) -> list[Tensor | DropoutStep]:
    """Return linear steps as matrices [in point, out point] on the points of all images."""
    matrices: list[Tensor | DropoutStep] = []
    for step in steps:
        if isinstance(step, DropoutStep):
            matrices.append(step)
            continue
        n = interlayer.images_per_field * int(torch.Size(positions).numel())
        single_step = Interlayer((), (), (step,), interlayer.images_per_field, positions, positions)
        matrices.append(single_step.apply(torch.eye(n, dtype=torch.float64)))
        positions = step.shape_after(interlayer.images_per_field, positions)
    return matrices


def linear_matrices(
    interlayer: Interlayer, form: ClosedForm
) -> tuple[list[Tensor], list[Tensor | DropoutStep]]:
    """Return the linear steps before and after the function, as matrices."""
    matrices = step_matrices(interlayer, (*form.before, *form.after), interlayer.positions)
    before = [matrix for matrix in matrices[: len(form.before)] if isinstance(matrix, Tensor)]
    return before, matrices[len(form.before) :]


def apply_dropout(products: Pairs, step: DropoutStep, images_per_field: int) -> Pairs:
    """Apply dropout to second moments of values or cotangents.

    Only products of points with a common mask grow, by the factor 1 / (1 - p).
    """
    points = products.shape[-1]
    share_mask = torch.eye(points, dtype=torch.float64)
    if step.whole_channel:  # each image's channel has one mask
        block = torch.ones(
            points // images_per_field, points // images_per_field, dtype=torch.float64
        )
        share_mask = torch.block_diag(*[block] * images_per_field)
    return products * (1 + (step.growth - 1) * share_mask)


def replace_diagonal(products: Pairs, m2: Tensor) -> Pairs:
    """Return the matrices with `m2` as their diagonals."""
    # The axis of particles can be missing in either argument.
    shape = np.broadcast_shapes(products.shape[:-1], m2.shape)
    expanded = products.expand(*shape, products.shape[-1])
    return expanded.diagonal_scatter(m2.expand(shape), dim1=-2, dim2=-1)


def diagonal(products: Pairs) -> Tensor:
    """Return second moments of single points, with negative rounding errors set to 0."""
    return products.diagonal(dim1=-2, dim2=-1).clamp(min=0)


def zero_fraction(
    function: Function, preact: Preactivation
) -> Float[Tensor, "image particle group point"]:
    """Compute P(phi(y) = 0) at every point, rounded to 0 or 1 within the quadrature error.

    The result is NaN for a function that is 0 at single points only. Its zeros depend on the dtype,
    which rounds its tails to 0 (GELU below -5.5 in float32, below -8.3 in float64).
    """
    mean, var = torch.broadcast_tensors(preact.mean, preact.var)
    if not (function(NEAR_ZERO) == 0).any():
        return torch.full_like(mean, torch.nan)
    chunk = max(1, 2**17 // max_nodes(COARSE))
    fractions = []
    for m, v in zip(mean.flatten().split(chunk), var.flatten().split(chunk), strict=True):
        y, weight = gaussian_nodes(m, v, COARSE)
        fractions.append((weight * (function(y) == 0)).sum(-1))
    fraction = torch.cat(fractions).reshape(mean.shape)
    fraction = torch.where(fraction < NEGLIGIBLE, 0.0, fraction)
    return torch.where(fraction > 1 - NEGLIGIBLE, 1.0, fraction)


def field_normals(
    interlayer: Interlayer, preact: Preactivation, samples: int, *key: object
) -> Tensor:
    """Return standard normal numbers [sample, rank] from which samples of a field are computed."""
    # If no module combines points, the moments of single points are exact and products are averages
    # over particles, so few samples are enough.
    if preact.field_shape[1] > 1 and not interlayer.mixes_points:
        return antithetic(min(samples, SAMPLES_PER_PARTICLE), preact.rank, *key)
    return whitened(samples, preact.rank, *key)


def field_chunks(preact: Preactivation, samples: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield chunks of fields: their index, roots [field, point, rank] and means [field, point]."""
    root = factor(preact.covariance) if preact.root is None else preact.root
    count = int(torch.Size(preact.field_shape).numel())
    groups = preact.field_shape[2]  # a chunk contains all groups of a particle
    size = groups * max(1, MAX_NUMBERS // (samples * preact.var.shape[-1] * groups))
    for start in range(0, count, size):
        index = slice(start, min(start + size, count))
        roots = select_fields(root, preact.field_shape, index)
        yield index, roots, select_fields(preact.mean, preact.field_shape, index)


def _forward_closed_form(
    interlayer: Interlayer, form: ClosedForm, preact: Preactivation
) -> LayerInput:
    before, after = linear_matrices(interlayer, form)
    cov = preact.covariance
    for matrix in before:
        cov = matrix.mT @ cov @ matrix
    var = diagonal(cov)
    pair = pair_expectations(form.function)
    products = replace_diagonal(pair.covariance(cov, var, var), pair.second_moment(var))
    mean = pair.mean(var)
    for step in after:
        if isinstance(step, DropoutStep):
            products = apply_dropout(products, step, interlayer.images_per_field)
        else:
            products, mean = step.mT @ products @ step, mean @ step
    return LayerInput(mean, diagonal(products), products)


def _forward_sampled(
    interlayer: Interlayer, preact: Preactivation, samples: int, key: StreamKey
) -> LayerInput:
    mean, cov = _sample_moments(interlayer, preact, samples, key)
    products = cov + mean[..., :, None] * mean[..., None, :]
    return LayerInput(mean, diagonal(products), products, cov)


def _sample_moments(
    interlayer: Interlayer, preact: Preactivation, samples: int, key: StreamKey
) -> tuple[Points, Pairs]:
    """Return the mean and the covariance over samples at the output of the modules."""
    z = field_normals(interlayer, preact, samples, *key)
    means, covs = [], []
    for _, root, mean in field_chunks(preact, len(z)):
        fields = z @ root.mT + mean[:, None]
        x = interlayer.apply(fields.flatten(0, 1), make_generator("masks", *key), len(root))
        x = x.unflatten(0, (len(root), len(z)))
        means.append(x.mean(1))
        x = x - means[-1][:, None]
        covs.append((x.mT @ x).div_(len(z)))
    mean = torch.cat(means).unflatten(0, preact.field_shape)
    return mean, torch.cat(covs).unflatten(0, preact.field_shape)


def _match_unit_moments(cov: Pairs, units: UnitMoments) -> LayerInput:
    """Rescale sampled covariances so that each point has its exact mean and variance."""
    var = diagonal(cov)
    scale = torch.where(var > 0, (units.var / torch.where(var > 0, var, 1.0)).sqrt(), 0.0)
    cov = (cov * scale[..., :, None]).mul_(scale[..., None, :])
    products = torch.addcmul(cov, units.mean[..., :, None], units.mean[..., None, :])
    return LayerInput(units.mean, units.m2, replace_diagonal(products, units.m2), cov)
