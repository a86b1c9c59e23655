"""Weight layers: moments of the pre-activations forward, moments of the cotangent backward."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fanin.inits.weight_shape import WeightShape
from fanin.theory.field.geometry import Taps
from fanin.theory.field.sampling import factor
from fanin.theory.field.state import (
    Cotangent,
    LayerInput,
    LayerWeights,
    Pairs,
    Preactivation,
    SharedCotangent,
)
from fanin.theory.moments import LayerMoments
from fanin.theory.quadrature import stratified_normals

# (upper limit of the mean's fraction of the second moment, particles)
FEWER_PARTICLES = ((0.005, 2), (0.05, 4), (0.3, 8))
MAX_MEAN_MAPS = 8  # a layer of more groups has fewer mean maps, shared by neighbouring groups
TINY = torch.finfo(torch.float64).tiny
MIN_POINTS_PER_COLUMN = 2  # points per column from which a covariance's root saves work


def layer_weights(layer: nn.Module, moments: LayerMoments, taps: Taps) -> LayerWeights:
    """Return the moments and sizes of a layer's weights."""
    shape = WeightShape.of(layer)
    bias = moments.bias if layer.bias is not None else None
    return LayerWeights(
        mean=_per_tap(moments.weight.mean, taps),
        var=_per_tap(moments.weight.var, taps),
        bias_mean=float(bias.mean) if bias else 0.0,
        bias_var=float(bias.var) if bias else 0.0,
        group_in_channels=shape.fan_in // taps.n_taps,
        group_out_channels=shape.out_features // shape.groups,
        out_channels=shape.out_features,
        groups=shape.groups,
        kurtosis=moments.weight.excess_kurtosis,
        bias_kurtosis=bias.excess_kurtosis if bias else 0.0,
    )


def _per_tap(value: float | Tensor, taps: Taps) -> Float[Tensor, " tap"]:
    value = torch.as_tensor(value, dtype=torch.float64).flatten()
    return value.expand(taps.n_taps) if len(value) == 1 else value


def forward(
    taps: Taps,
    weights: LayerWeights,
    inputs: LayerInput,
    *,
    needs_products: bool,
    images_per_field: int,
    particles: int,
    stream: torch.Generator | None,
    root: Tensor | None = None,
) -> Preactivation:
    r"""Compute the moments of a layer's pre-activations from those of its input.

    With weights :math:`w_t = \mu_t + s_t z`, C input channels and x one of them:

    .. math::
        M'(p) = C \sum_t \mu_t E[x(p_t)] + \mu_b + \text{noise}, \quad
        K'(p, p') = C \sum_t s_t^2 E[x(p_t) x(p'_t)] + \sigma_b^2

    The noise is a field of covariance :math:`C \sum_{t t'} \mu_t \mu_{t'} Cov[x(p_t), x(p'_{t'})]`.
    All output channels of a group share it (docs/appendix/derivations.md, sections 2.4 and 3).

    Parameters
    ----------
    needs_products
        Also compute covariances of points.
    images_per_field
        Images side by side in the field.
    particles
        Samples of the shared mean, if it becomes random here.
    stream
        Random generator of these samples. None for the last layer, which needs no samples.
    root
        A root of the covariance with few columns, if one is known.
    """
    groups = _n_mean_maps(weights, inputs)
    inputs = inputs.for_groups(groups)
    weights = weights.with_bias_scale(inputs.log_scale)
    c = weights.group_in_channels
    var = c * taps.forward_m2(inputs.m2, weights.var) + weights.bias_var
    cov = None
    if root is not None:
        cov = root @ root.mT
    elif needs_products:
        assert inputs.products is not None
        cov = c * taps.forward_products(inputs.products, weights.var) + weights.bias_var
    if weights.zero_mean:
        mean = torch.full_like(var, weights.bias_mean)
        shared = None
    else:
        mean = c * (taps.gather(inputs.mean) @ weights.mean) + weights.bias_mean
        shared = None if inputs.deterministic else _shared_covariance(taps, weights, inputs)
    spread = torch.zeros_like(var) if shared is None else _diagonal(shared)
    m2 = mean.square() + spread + var
    grand_mean_square = _grand_mean_square(mean, shared, weights.groups, images_per_field)
    expected_mean = mean
    if shared is not None and stream is not None:
        fraction = float((spread.mean(-1) / m2.mean(-1).clamp(min=TINY)).max())
        mean = mean + _draw_mean_noise(shared, _n_particles(particles, fraction), groups, stream)
    return Preactivation(
        mean, var, cov, root, m2, expected_mean, grand_mean_square, inputs.log_scale
    )


def _n_mean_maps(weights: LayerWeights, inputs: LayerInput) -> int:
    """Return the number of groups of pre-activations that have a mean of their own.

    Each group's random mean is a sum over its own channels.
    """
    n_groups = inputs.m2.shape[2]
    if weights.groups % n_groups:
        n_groups = weights.groups
    if weights.zero_mean or inputs.deterministic:
        return n_groups
    candidates = range(n_groups, max(n_groups, MAX_MEAN_MAPS) + 1, n_groups)
    return max(n for n in candidates if weights.groups % n == 0)


def _shared_covariance(taps: Taps, weights: LayerWeights, inputs: LayerInput) -> Pairs:
    matrix = taps.sparse_matrix(weights.mean)
    return weights.group_in_channels * _sandwich(matrix, inputs.covariance, matrix)


def _n_particles(particles: int, fraction: float) -> int:
    """Return the number of particles: fewer if the mean is a small part of the second moment.

    The effect of the mean's fluctuation is of second order, because the first order cancels between
    antithetic pairs. So the sampling error falls with `fraction`, and fewer particles are enough.
    """
    for limit, n_particles in FEWER_PARTICLES:
        if fraction < limit:
            return min(particles, n_particles)
    return particles


def _draw_mean_noise(shared: Pairs, particles: int, groups: int, stream: torch.Generator) -> Tensor:
    root = factor(shared)
    n_fields, n_particles, _, points, rank = root.shape
    count = particles if n_particles == 1 else n_particles
    normals = stratified_normals((groups, rank, count), stream)
    return torch.einsum(
        "irgpk,gkr->irgp", root.expand(n_fields, count, groups, points, rank), normals
    )


def _grand_mean_square(
    mean: Tensor, shared: Pairs | None, groups: int, images_per_field: int
) -> Tensor:
    square = mean.mean(2, True).unflatten(-1, (images_per_field, -1)).mean(-1).square()
    if shared is None:
        return square
    shared = shared.mean(2, True) / groups  # the noises of different groups are independent
    blocks = shared.unflatten(-1, (images_per_field, -1)).unflatten(-3, (images_per_field, -1))
    return square + blocks.mean((-3, -1)).diagonal(dim1=-2, dim2=-1)


def _diagonal(pairs: Pairs) -> Tensor:
    return pairs.diagonal(dim1=-2, dim2=-1).clamp(min=0)


def backward(taps: Taps, weights: LayerWeights, cotangent: Cotangent, groups: int) -> Cotangent:
    r"""Compute the moments of an input channel's cotangent from those of the output channels.

    With n output channels in a group, a = E[d_j d_j'] of one channel and b = E[S S'] of the shared
    part (docs/appendix/derivations.md, section 4, and `SharedCotangent`):

    .. math::
        \text{own}(p, p') = n \sum_t s_t^2 a(p_t, p'_t), \quad
        E[S' S'] = O^T (n (a - b) + n^2 b) O, \quad \theta' = n G^T \theta

    O holds the means of the weights and G their variances, tap by tap. Two input channels that
    different groups read share :math:`n^2 O^T b O` only, with b of two different groups.

    Parameters
    ----------
    groups
        Groups of the input channels.
    """
    n = weights.group_out_channels
    m2 = n * taps.backward_m2(cotangent.m2, weights.var)
    if cotangent.shared is None and weights.zero_mean and cotangent.products is None:
        return Cotangent(m2, log_scale=cotangent.log_scale).to_input_groups(groups)
    own_products = n * taps.backward_products(cotangent.full_products, weights.var)
    shared = _shared_cotangent(taps, weights, cotangent)
    return Cotangent(
        _diagonal(own_products), own_products, shared, cotangent.log_scale
    ).to_input_groups(groups)


def _shared_cotangent(
    taps: Taps, weights: LayerWeights, cotangent: Cotangent
) -> SharedCotangent | None:
    n, shared = weights.group_out_channels, cotangent.shared
    if weights.zero_mean and shared is None:
        return None
    mean, var = (taps.sparse_matrix(x, transposed=True) for x in (weights.mean, weights.var))
    products = n * cotangent.full_products
    if shared is None:
        additive = _sandwich(mean, products, mean)
        zero = torch.zeros_like(additive)
        across = SharedCotangent(zero, zero, zero) if weights.groups > 1 else None
        return SharedCotangent(additive, zero, zero, across)

    def sums(shared: SharedCotangent, additive: Tensor) -> SharedCotangent:
        return SharedCotangent(
            _sandwich(mean, additive, mean),
            n**2 * _sandwich(mean, shared.cross, var),
            n**2 * _sandwich(var, shared.response, var),
        )

    across = shared.across and sums(shared.across, n**2 * shared.across.additive)
    return replace(sums(shared, products + n * (n - 1) * shared.additive), across=across)


def _sandwich(left: Tensor, pairs: Pairs, right: Tensor) -> Pairs:
    """Compute left @ pairs @ right^T for two sparse matrices."""
    fields = [(right @ (left @ x).T.contiguous()).T for x in pairs.flatten(0, -3)]
    return torch.stack(fields).unflatten(0, pairs.shape[:-2])


def image_moments(
    images: Float[Tensor, "image channel *position"], groups: int, joint: bool, needs_products: bool
) -> LayerInput:
    """Compute the moments of images over their channels.

    Channels that different groups of the first layer read stay separate.
    """
    count, channels = images.shape[:2]
    x = images.reshape(count, groups, channels // groups, -1)
    if joint:
        x = x.permute(1, 2, 0, 3).flatten(2)[None]
    x = x[:, None]  # image, particle, group, channel, point
    products = x.mT @ x / x.shape[-2] if needs_products else None
    return LayerInput(x.mean(-2), x.square().mean(-2), products, deterministic=True)


def first_layer_root(
    taps: Taps, weights: LayerWeights, images: Tensor, joint: bool
) -> Tensor | None:
    """Return the image patches as a root of the first layer's covariance.

    Return None if the root has too many columns to save work.
    """
    count, channels = images.shape[:2]
    points = len(taps.input_index)
    x = images.reshape(count, weights.groups, channels // weights.groups, -1)
    if joint:
        x = x.permute(1, 2, 0, 3).flatten(2)[None]
    columns = x.shape[2] * taps.n_taps + 1
    if columns * MIN_POINTS_PER_COLUMN > points:
        return None
    patches = taps.gather(x) * weights.var.sqrt()  # image, group, channel, point, tap
    root = patches.movedim(2, -2).flatten(-2)
    bias = torch.full_like(root[..., :1], weights.bias_var**0.5)
    return torch.cat([root, bias], -1)[:, None]
