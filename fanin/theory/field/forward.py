"""Through what stands between two weight layers, forward: a Gaussian field's moments behind it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from fanin.seeds import generator
from fanin.theory.elementwise import Function
from fanin.theory.field.interlayer import ClosedForm, Interlayer
from fanin.theory.field.sampling import antithetic, factor, whitened
from fanin.theory.field.state import LayerInput, Pairs, Preactivation, pick
from fanin.theory.gaussian_pairs import pair_law
from fanin.theory.layer_kind import DropoutStep, Mixing
from fanin.theory.mean_field import UnitMoments, unit_moments
from fanin.theory.quadrature import COARSE, gaussian_nodes, most_nodes

AT_ONCE = 2**24  # numbers in one tensor of samples: 128 MB
BESIDE_ZERO = torch.tensor([-3.0, -1.0, -0.1, -1e-3, 1e-3, 0.1, 1.0, 3.0], dtype=torch.float64)
"""Where a function that is flat at 0 somewhere of use is 0."""
UNSEEN = 1e-9  # a share of units that no network will show
PER_PARTICLE = 256  # samples of one particle's field, where quadrature gives single points
Place = tuple[object, ...]
"""Of a random stream: seed, repeat, layer."""


def pass_on(
    between: Interlayer, made: Preactivation, *, full: bool, samples: int, place: Place
) -> LayerInput:
    """Moments of one channel behind the modules.

    Closed forms where linear modules surround at most one elementwise function and the mean is one
    number; quadrature for single points; samples of the field otherwise.

    Parameters
    ----------
    full
        Whether products of points are needed.
    samples
        Of each field, at least.
    place
        Of the random stream.
    """
    form = closed_form_of(between, made)
    if between.mixes:
        if form is not None:
            return _closed(between, form, made)
        return _sampled(between, made, samples, place)
    mean, var = torch.broadcast_tensors(made.mean, made.var)
    units = unit_moments(between.pointwise_layers, mean, var)
    if not full:
        return LayerInput(units.mean, units.m2, None)
    if form is None:
        return _with_exact_points(_sampled(between, made, samples, place), units)
    products = pair_law(form.function).covariance(made.covariance, made.var, made.var)
    for step in form.after:
        assert isinstance(step, DropoutStep)
        products = thinned(products, step, between.images)
    return LayerInput(units.mean, units.m2, with_diagonal(products, units.m2))


def closed_form_of(between: Interlayer, made: Preactivation) -> ClosedForm | None:
    """The modules as steps with closed forms; None where only samples will do."""
    return None if made.shift is None else between.closed_form(made.shift)


def matrices_of(
    between: Interlayer, steps: tuple[Mixing | DropoutStep, ...], positions: tuple[int, ...]
) -> list[Tensor | DropoutStep]:
    """Linear steps as matrices [in point, out point] on the points of all images."""
    found: list[Tensor | DropoutStep] = []
    for step in steps:
        if isinstance(step, DropoutStep):
            found.append(step)
            continue
        n = between.images * int(torch.Size(positions).numel())
        alone = Interlayer((), (), (step,), between.images, positions, positions)
        found.append(alone.apply(torch.eye(n, dtype=torch.float64)))
        positions = step.shape_after(between.images, positions)
    return found


def before_and_after(
    between: Interlayer, form: ClosedForm
) -> tuple[list[Tensor], list[Tensor | DropoutStep]]:
    """The linear steps on both sides of the function, as matrices."""
    found = matrices_of(between, (*form.before, *form.after), between.positions)
    before = [matrix for matrix in found[: len(form.before)] if isinstance(matrix, Tensor)]
    return before, found[len(form.before) :]


def thinned(products: Pairs, step: DropoutStep, images: int) -> Pairs:
    """Apply dropout to second moments: they grow where two points share a mask.

    To those of cotangents, on the way back, as well.
    """
    points = products.shape[-1]
    same = torch.eye(points, dtype=torch.float64)
    if step.whole_channel:  # one mask for an image's channel
        block = torch.ones(points // images, points // images, dtype=torch.float64)
        same = torch.block_diag(*[block] * images)
    return products * (1 + (step.growth - 1) * same)


def with_diagonal(products: Pairs, m2: Tensor) -> Pairs:
    """The same matrices with another diagonal."""
    # Saturated units forget their particles' means, but both were kept with one entry a particle.
    shape = torch.broadcast_shapes(products.shape[:-1], m2.shape)
    spread = products.expand(*shape, products.shape[-1])
    return spread.diagonal_scatter(m2.expand(shape), dim1=-2, dim2=-1)


def diagonal(products: Pairs) -> Tensor:
    """Second moments of single points; what rounding made negative is 0."""
    return products.diagonal(dim1=-2, dim2=-1).clamp(min=0)


def zero_fraction(
    function: Function, made: Preactivation
) -> Float[Tensor, "image particle group point"]:
    """P(phi(y) = 0) at every point; 0 or 1 where it is nearer to them than quadrature can tell.

    NaN for a function that is 0 nowhere but, perhaps, at single points: its zeros are what a dtype
    rounds away in its tails (GELU's below -5.5 in float32, below -8.3 in float64).
    """
    mean, var = torch.broadcast_tensors(made.mean, made.var)
    if not (function(BESIDE_ZERO) == 0).any():
        return torch.full_like(mean, torch.nan)
    chunk = max(1, 2**17 // most_nodes(COARSE))
    found = []
    for m, v in zip(mean.flatten().split(chunk), var.flatten().split(chunk), strict=True):
        y, weight = gaussian_nodes(m, v, COARSE)
        found.append((weight * (function(y) == 0)).sum(-1))
    share = torch.cat(found).reshape(mean.shape)
    share = torch.where(share < UNSEEN, 0.0, share)
    return torch.where(share > 1 - UNSEEN, 1.0, share)


def field_normals(between: Interlayer, made: Preactivation, samples: int, *place: object) -> Tensor:
    """Normals that make samples of a field, [sample, rank]."""
    # Single points are exact where nothing mixes them, and their products averages over particles.
    if made.field_shape[1] > 1 and not between.mixes:
        return antithetic(min(samples, PER_PARTICLE), made.rank, *place)
    return whitened(samples, made.rank, *place)


def field_chunks(made: Preactivation, samples: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Fields in chunks: which fields, roots [field, point, rank] and means [field, point]."""
    root = factor(made.covariance) if made.root is None else made.root
    count = int(torch.Size(made.field_shape).numel())
    size = max(1, AT_ONCE // (samples * made.var.shape[-1]))
    for start in range(0, count, size):
        index = slice(start, min(start + size, count))
        yield index, pick(root, made.field_shape, index), pick(made.mean, made.field_shape, index)


def _closed(between: Interlayer, form: ClosedForm, made: Preactivation) -> LayerInput:
    before, after = before_and_after(between, form)
    cov = made.covariance
    for matrix in before:
        cov = matrix.mT @ cov @ matrix
    var = diagonal(cov)
    law = pair_law(form.function)
    products = with_diagonal(law.covariance(cov, var, var), law.second_moment(var))
    mean = law.mean(var)
    for step in after:
        if isinstance(step, DropoutStep):
            products = thinned(products, step, between.images)
        else:
            products, mean = step.mT @ products @ step, mean @ step
    return LayerInput(mean, diagonal(products), products)


def _sampled(between: Interlayer, made: Preactivation, samples: int, place: Place) -> LayerInput:
    z = field_normals(between, made, samples, *place)
    means, spreads = [], []
    for _, root, mean in field_chunks(made, len(z)):
        fields = z @ root.mT + mean[:, None]
        x = between.apply(fields.flatten(0, 1), generator("masks", *place), len(root))
        x = x.unflatten(0, (len(root), len(z)))
        means.append(x.mean(1))
        x = x - means[-1][:, None]
        spreads.append(x.mT @ x / len(z))
    mean = torch.cat(means).unflatten(0, made.field_shape)
    centred = torch.cat(spreads).unflatten(0, made.field_shape)
    products = centred + mean[..., :, None] * mean[..., None, :]
    return LayerInput(mean, diagonal(products), products, centred)


def _with_exact_points(sampled: LayerInput, units: UnitMoments) -> LayerInput:
    """Sampled products, rescaled so that each point has its exact mean and variance."""
    cov = sampled.covariance
    own = diagonal(cov)
    scale = torch.where(own > 0, (units.var / torch.where(own > 0, own, 1.0)).sqrt(), 0.0)
    cov = cov * scale[..., :, None] * scale[..., None, :]
    products = cov + units.mean[..., :, None] * units.mean[..., None, :]
    return LayerInput(units.mean, units.m2, with_diagonal(products, units.m2), cov)
