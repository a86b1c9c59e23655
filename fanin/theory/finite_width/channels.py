"""Samples of a layer's channels, and adjoints from samples where they have no closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fanin.inits.weight_shape import UNIFORM_KURTOSIS
from fanin.seeds import make_generator
from fanin.theory.elementwise import vjp
from fanin.theory.field.sampling import factor, whitened
from fanin.theory.field.state import Cotangent, FieldLayer
from fanin.theory.finite_width.adjoints import (
    Forms,
    quadratic_forms,
    readout_matrix,
    squeeze_field,
    symmetrize,
)

RANK_TOLERANCE = 1e-3  # smallest singular value kept, relative to the largest
MIN_WHITENED = 1024  # whitened samples
WHITENED_PER_DIMENSION = 4  # whitened samples
Cotangents = Float[Tensor, "channel point"]


@dataclass(frozen=True)
class ChannelSamples:
    """Samples of a layer's channels, in the autograd graph of their pre-activations.

    Attributes
    ----------
    normals, root
        y = mean + normals root^T. `normals` have variance 1. They are normally distributed,
        except in a first layer whose weights are not.
    y, x
        Pre-activations, and the outputs of the modules after them.
    output_cotangent, cotangent
        The cotangents at x and at y.
    """

    normals: Float[Tensor, "sample rank"]
    root: Float[Tensor, "point rank"]
    y: Float[Tensor, "sample point"]
    x: Float[Tensor, "sample out"]
    output_cotangent: Float[Tensor, "sample out"]
    cotangent: Float[Tensor, "sample point"]

    def cotangent_adjoint(self, forms: Forms, output_moments: Cotangent) -> Forms:
        """Convert forms (see `adjoints`) of the cotangent's moments at y to forms of those at x."""
        results = []
        for form in forms:
            with torch.enable_grad():
                at_inputs = self.cotangent * form if form.ndim == 1 else self.cotangent @ form
                value = (self.cotangent * at_inputs).sum() / 2
            slope = _derivative(value, self.output_cotangent)  # J B d where d = J^T g
            if form.ndim == 1:
                results.append((slope * self.output_cotangent).detach().mean(0))
            else:
                results.append((slope.mT @ self.output_cotangent).detach() / len(slope))
        gradient = torch.stack(results)
        if output_moments.products is not None:
            inverse = torch.linalg.pinv(
                squeeze_field(output_moments.products, 2), rtol=RANK_TOLERANCE**2
            )
            return symmetrize(gradient @ inverse)
        size = squeeze_field(output_moments.m2, 1)
        gradient = gradient / torch.where(size > 0, size, torch.inf)
        return gradient if gradient.ndim == 2 else symmetrize(gradient)

    def normals_adjoint(self, forward: Forms, backward: Sequence[Tensor]) -> Forms:
        """Convert forms (see `adjoints`) of the moments of x and d to forms of `normals`.

        With K the covariance of y and z the normals, dE[f(y)] / dK = E[f''] / 2 =
        E[f' z^T] root^-1 / 2 (Price 1958, Stein 1981). d is the cotangent at y. Jumps of f',
        such as a cotangent's change of path through a maximum, are ignored.
        """
        results = []
        for output_form, cotangent_form in zip(forward, backward, strict=True):
            with torch.enable_grad():
                value = (
                    quadratic_forms(self.x, output_form[None]).sum()
                    + quadratic_forms(self.cotangent, cotangent_form[None]).sum()
                )
            slope = _derivative(value, self.y) @ self.root
            results.append(slope.mT @ self.normals / (2 * len(slope)))
        return symmetrize(torch.stack(results))

    def to_points(self, forms: Forms) -> Forms:
        """Convert quadratic forms of `normals` to quadratic forms of y at the points."""
        inverse = torch.linalg.pinv(self.root, rtol=RANK_TOLERANCE)
        return inverse.mT @ forms @ inverse


def draw_channels(
    layer: FieldLayer, output_cotangent: Float[Tensor, "sample out"], *key: object
) -> tuple[ChannelSamples, Float[Tensor, "sample point"]]:
    """Draw independent channels of a layer, and propagate the given cotangents back to y.

    The channels are detached from the autograd graph.

    Parameters
    ----------
    output_cotangent
        Cotangents at x to propagate back. (`ChannelSamples.output_cotangent` is another sample,
        with the expected moments.)
    key
        Key of the random stream: seed and layer.
    """
    root, kurtosis = _field_root(layer)
    output_moments = layer.output_cotangent
    assert output_moments is not None
    own_cotangents = _scale_cotangents(
        output_moments,
        _normals(len(output_cotangent), output_cotangent.shape[1], *key, "cotangents"),
    )
    z = _variates(len(output_cotangent), kurtosis, *key, "channels")
    channels = _channels(layer, root, z, own_cotangents, *key)
    pulled_back = torch.zeros_like(channels.y)
    if channels.x.requires_grad:
        (pulled_back,) = vjp(channels.x, [channels.y], output_cotangent)
    parts = (
        channels.normals,
        root,
        channels.y,
        channels.x,
        channels.output_cotangent,
        channels.cotangent,
    )
    return ChannelSamples(*(part.detach() for part in parts)), pulled_back.detach()


def whitened_channels(layer: FieldLayer, *key: object) -> ChannelSamples:
    """Draw channels whose empirical covariances are exact, for the computation of adjoints."""
    root, output_moments = _field_root(layer)[0], layer.output_cotangent
    assert output_moments is not None
    points = output_moments.m2.shape[-1]
    samples = max(MIN_WHITENED, WHITENED_PER_DIMENSION * max(root.shape[1], points))
    output_cotangent = _scale_cotangents(
        output_moments, whitened(samples, points, *key, "cotangents")
    )
    z = whitened(samples, root.shape[1], *key, "channels")
    return _channels(layer, root, z, output_cotangent, *key)


def _channels(
    layer: FieldLayer, root: Tensor, z: Tensor, output_cotangent: Tensor, *key: object
) -> ChannelSamples:
    assert layer.interlayer is not None
    with torch.enable_grad():
        y = (z @ root.mT + squeeze_field(layer.preact.mean, 1)).requires_grad_()
        x = layer.interlayer.apply(y, make_generator("masks", *key))
        output_cotangent = output_cotangent.detach().requires_grad_()
        cotangent = torch.zeros_like(y)  # if x is constant
        if x.requires_grad:
            (cotangent,) = vjp(x, [y], output_cotangent, create_graph=True)
    return ChannelSamples(z, root, y, x, output_cotangent, cotangent)


def _scale_cotangents(output_moments: Cotangent, normals: Tensor) -> Tensor:
    if output_moments.products is None:
        return normals * squeeze_field(output_moments.m2, 1).sqrt()
    return normals @ squeeze_field(factor(output_moments.products), 2).mT


def _field_root(
    layer: FieldLayer,
) -> tuple[Float[Tensor, "point rank"], Float[Tensor, " rank"]]:
    """Return F and k: y - mean = F z, where z_i has variance 1 and excess kurtosis k_i.

    The channels of the first layer are sums over its weights, and all layers add a bias. Sums over
    the random inputs of later layers are normal.
    """
    weights, preact = layer.weights, layer.preact
    if preact.root is not None:  # a column per weight, and the last for the bias
        root = squeeze_field(preact.root, 2)
        kurtosis = torch.full((root.shape[1],), weights.kurtosis, dtype=torch.float64)
        kurtosis[-1] = weights.bias_kurtosis
        return root, kurtosis
    has_bias = weights.bias_kurtosis != 0 and weights.bias_var > 0 and preact.log_scale == 0
    bias_var = weights.bias_var if has_bias else 0.0
    root = squeeze_field(factor(preact.covariance - bias_var), 2)
    kurtosis = torch.zeros(root.shape[1], dtype=torch.float64)
    if not has_bias:
        return root, kurtosis
    root = torch.cat([root, torch.full_like(root[:, :1], bias_var**0.5)], 1)
    return root, torch.cat([kurtosis, torch.full_like(kurtosis[:1], weights.bias_kurtosis)])


def _normals(samples: int, dimensions: int, *key: object) -> Tensor:
    stream = make_generator("channels", *key)
    half = torch.randn(-(-samples // 2), dimensions, generator=stream, dtype=torch.float64)
    return torch.cat([half, -half])[:samples]


def _variates(samples: int, kurtosis: Float[Tensor, " dimension"], *key: object) -> Tensor:
    """Draw antithetic variates of variance 1: sums of a normal and a uniform variate."""
    z = _normals(samples, len(kurtosis), *key)
    uniform_share = (kurtosis / UNIFORM_KURTOSIS).clamp(0, 1).sqrt()  # of the variance
    if not uniform_share.any():
        return z
    stream = make_generator("uniform", *key)
    half = torch.rand(-(-samples // 2), len(kurtosis), generator=stream, dtype=torch.float64)
    half = 12**0.5 * (half - 0.5)
    uniform = torch.cat([half, -half])[:samples]
    return (1 - uniform_share).sqrt() * z + uniform_share.sqrt() * uniform


def _derivative(value: Tensor, at: Tensor) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(at)
    (gradient,) = torch.autograd.grad(value, at, retain_graph=True, allow_unused=True)
    return torch.zeros_like(at) if gradient is None else gradient


def draw_logit_cotangents(samples: int, points: int, seed: int) -> Float[Tensor, "sample point"]:
    """Draw random cotangents at the logits, one sample per channel."""
    stream = make_generator("logits", seed)
    return torch.randn(samples, points, generator=stream, dtype=torch.float64)


def logit_cotangents(last: FieldLayer, seed: int) -> Cotangents:
    """Draw cotangents of mean square 1 at the logits; propagate them through a linear readout."""
    readout = readout_matrix(last)
    points = last.preact.var.shape[-1] if readout is None else readout.shape[1]
    u = draw_logit_cotangents(last.weights.out_channels, points, seed)
    u = u / u.square().mean(0).sqrt()
    return u if readout is None else u @ readout.mT


def draw_output_cotangents(
    next_layer: FieldLayer,
    cotangent: Cotangents,
    output_moments: Cotangent,
    samples: int,
    *key: object,
) -> Float[Tensor, "sample point"]:
    """Draw the cotangents that a layer's channels receive from the next layer's channels.

    After a flatten layer, cotangents of different points are uncorrelated on average but not in a
    single draw: C channels leave correlations of order 1 / sqrt(C) between neighbours, and sums
    over many points add them up. So this function multiplies the cotangents of one draw of C
    channels by independent random weights. It then scales the second moment of each point to its
    expected value.

    Parameters
    ----------
    next_layer
        The next layer.
    cotangent
        Cotangents at the next layer's pre-activations, one per channel.
    output_moments
        The expected moments of the result.
    key
        Key of the random stream: seed and layer.
    """
    taps, weights = next_layer.taps, next_layer.weights
    cotangent = cotangent[: weights.group_out_channels]
    stream = make_generator("directions", *key)
    if taps.is_linear:
        # The weights differ between points and are the same for all images.
        root = torch.linalg.qr(cotangent, mode="r")[1]
        z = torch.randn(samples, taps.n_taps, len(root), generator=stream, dtype=torch.float64)
        output_cotangent = (z @ root).mT.flatten(1)
    else:
        at_inputs = cotangent.new_zeros(taps.n_taps, len(cotangent), taps.n_inputs + 1)
        columns = zip(at_inputs, taps.input_index.T, weights.var.tolist(), strict=True)
        for tap, input_index, variance in columns:
            tap.index_add_(1, input_index, variance**0.5 * cotangent)
        used = (weights.var > 0).nonzero().flatten()
        at_inputs = at_inputs[used, :, 1:].flatten(0, 1)
        normals = torch.randn(samples, len(at_inputs), generator=stream, dtype=torch.float64)
        output_cotangent = normals @ at_inputs
    size = output_cotangent.square().mean(0)
    expected = squeeze_field(output_moments.m2, 1)
    return output_cotangent * torch.where(size > 0, expected / size, 0.0).sqrt()
