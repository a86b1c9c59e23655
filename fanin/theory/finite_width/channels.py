"""Samples of one channel of a layer: what scatters, and adjoints where no closed form exists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fanin.seeds import generator
from fanin.theory.field.sampling import factor, whitened
from fanin.theory.field.state import Cotangent, FieldLayer
from fanin.theory.finite_width.adjoints import Forms, alone, quadratic, symmetric

RESOLVED = 1e-3  # directions of a field that are smaller than this share of the largest are left
WHITENED, WHITENED_PER_POINT = 1024, 4  # samples
Cotangents = Float[Tensor, "channel point"]


@dataclass(frozen=True)
class Channels:
    """Samples of a layer's channel, in the autograd graph of their pre-activations.

    Attributes
    ----------
    normals, root
        y = mean + normals root^T.
    y, x
        Pre-activations, and what the modules make of them.
    gamma, d
        The cotangent at x, and at y.
    """

    normals: Float[Tensor, "sample rank"]
    root: Float[Tensor, "point rank"]
    y: Float[Tensor, "sample point"]
    x: Float[Tensor, "sample out"]
    gamma: Float[Tensor, "sample out"]
    d: Float[Tensor, "sample point"]

    def into_cotangent(self, forms: Forms, received: Cotangent) -> Forms:
        """Adjoint of the cotangent's moments at y, by those at x."""
        found = []
        for form in forms:
            with torch.enable_grad():
                sent = self.d * form if form.ndim == 1 else self.d @ form
                value = (self.d * sent).sum() / 2
            back = _derivative(value, self.gamma)  # J B d where d = J^T gamma
            pairs = back * self.gamma if form.ndim == 1 else back.mT @ self.gamma
            found.append(pairs.detach().mean(0) if form.ndim == 1 else pairs.detach() / len(back))
        gradient = torch.stack(found)
        if received.products is not None:
            inverse = torch.linalg.pinv(alone(received.products, 2), rtol=RESOLVED**2)
            return symmetric(gradient @ inverse)
        size = alone(received.m2, 1)
        gradient = gradient / torch.where(size > 0, size, torch.inf)
        return gradient if gradient.ndim == 2 else symmetric(gradient)

    def into_whitened(self, forward: Forms, backward: Sequence[Tensor]) -> Forms:
        """Adjoint of both moments by the field's covariance, on the coordinates `normals`.

        dE[f(y)] / dK = E[f''] / 2 = E[f' z^T] root^-1 / 2 (Price 1958, Stein 1981). Where f' jumps,
        as the way that a cotangent takes through a maximum does, the jump is left out.
        """
        found = []
        for out, back in zip(forward, backward, strict=True):
            with torch.enable_grad():
                value = quadratic(self.x, out[None]).sum() + quadratic(self.d, back[None]).sum()
            slope = _derivative(value, self.y) @ self.root
            found.append(slope.mT @ self.normals / (2 * len(slope)))
        return symmetric(torch.stack(found))

    def unwhitened(self, forms: Forms) -> Forms:
        """Forms on `normals` as forms on points."""
        inverse = torch.linalg.pinv(self.root, rtol=RESOLVED)
        return inverse.mT @ forms @ inverse


def drawn_channels(
    layer: FieldLayer, gamma: Float[Tensor, "sample out"], *place: object
) -> tuple[Channels, Float[Tensor, "sample point"]]:
    """Independent channels of a layer, without a graph, and what given cotangents become at y.

    Parameters
    ----------
    gamma
        Cotangents at x beside the channels' own, which have the expected moments.
    place
        Of the random stream: seed and layer.
    """
    root, received = _root(layer), layer.received
    assert received is not None
    own = _cotangents(received, _normals(len(gamma), gamma.shape[1], *place, "cotangents"))
    z = _normals(len(gamma), root.shape[1], *place, "channels")
    channels = _channels(layer, root, z, own, *place)
    given = torch.zeros_like(channels.y)
    if channels.x.requires_grad:
        (given,) = torch.autograd.grad(channels.x, channels.y, gamma)
    parts = (channels.normals, root, channels.y, channels.x, channels.gamma, channels.d)
    return Channels(*(part.detach() for part in parts)), given.detach()


def whitened_channels(layer: FieldLayer, *place: object) -> Channels:
    """Channels whose empirical covariances are exact, as adjoints need them."""
    root, received = _root(layer), layer.received
    assert received is not None
    points = received.m2.shape[-1]
    samples = max(WHITENED, WHITENED_PER_POINT * max(root.shape[1], points))
    gamma = _cotangents(received, whitened(samples, points, *place, "cotangents"))
    z = whitened(samples, root.shape[1], *place, "channels")
    return _channels(layer, root, z, gamma, *place)


def _channels(
    layer: FieldLayer, root: Tensor, z: Tensor, gamma: Tensor, *place: object
) -> Channels:
    assert layer.between is not None
    with torch.enable_grad():
        y = (z @ root.mT + alone(layer.made.mean, 1)).requires_grad_()
        x = layer.between.apply(y, generator("masks", *place))
        gamma = gamma.detach().requires_grad_()
        d = torch.zeros_like(y)  # of a constant
        if x.requires_grad:
            (d,) = torch.autograd.grad(x, y, gamma, create_graph=True)
    return Channels(z, root, y, x, gamma, d)


def _cotangents(received: Cotangent, w: Tensor) -> Tensor:
    if received.products is None:
        return w * alone(received.m2, 1).sqrt()
    return w @ alone(factor(received.products), 2).mT


def _root(layer: FieldLayer) -> Float[Tensor, "point rank"]:
    root = layer.made.root
    return alone(factor(layer.made.covariance) if root is None else root, 2)


def _normals(samples: int, dimensions: int, *place: object) -> Tensor:
    stream = generator("channels", *place)
    half = torch.randn(-(-samples // 2), dimensions, generator=stream, dtype=torch.float64)
    return torch.cat([half, -half])[:samples]


def _derivative(value: Tensor, at: Tensor) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(at)
    (found,) = torch.autograd.grad(value, at, retain_graph=True, allow_unused=True)
    return torch.zeros_like(at) if found is None else found


def logit_cotangents(last: FieldLayer, seed: int) -> Cotangents:
    """Random cotangents at the logits, one for each image, of mean square 1."""
    shape = (last.weights.channels, last.made.var.shape[-1])
    u = torch.randn(shape, generator=generator("logits", seed), dtype=torch.float64)
    return u / u.square().mean(0).sqrt()


def directions(
    above: FieldLayer, d: Cotangents, received: Cotangent, samples: int, *place: object
) -> Float[Tensor, "sample point"]:
    """Draw what the channels of a layer receive from those above, through independent weights.

    Points are uncorrelated on average behind a flattening, but not in any one draw: C channels
    leave correlations of order 1 / sqrt(C) between neighbours, which add up over many of them. So
    the cotangents are those that one draw of C channels sends; their second moments at each point
    are then made the expected ones.

    Parameters
    ----------
    above
        The layer that sends them.
    d
        Cotangents at its pre-activations, a channel each.
    received
        The expected moments.
    place
        Of the random stream: seed and layer.
    """
    taps, weights = above.taps, above.weights
    d = d[: weights.outputs]
    stream = generator("directions", *place)
    if taps.whole:
        # A weight of its own for each point; images share it.
        root = torch.linalg.qr(d, mode="r")[1]
        z = torch.randn(samples, taps.n_taps, len(root), generator=stream, dtype=torch.float64)
        gamma = (z @ root).mT.flatten(1)
    else:
        sent = d.new_zeros(taps.n_taps, len(d), taps.n_inputs + 1)
        for tap, reads, variance in zip(sent, taps.reads.T, weights.var.tolist(), strict=True):
            tap.index_add_(1, reads, variance**0.5 * d)
        used = (weights.var > 0).nonzero().flatten()
        sent = sent[used, :, 1:].flatten(0, 1)
        w = torch.randn(samples, len(sent), generator=stream, dtype=torch.float64)
        gamma = w @ sent
    size = gamma.square().mean(0)
    expected = alone(received.m2, 1)
    return gamma * torch.where(size > 0, expected / size, 0.0).sqrt()
