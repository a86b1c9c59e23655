"""Cotangents that a layer's channels receive from one draw of the channels above."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from fanin.seeds import generator
from fanin.theory.field.cotangent import Cotangent
from fanin.theory.field.state import FieldLayer
from fanin.theory.finite.forms import alone

Cotangents = Float[Tensor, "channel point"]


def logit_cotangents(last: FieldLayer, seed: int) -> Cotangents:
    """Random cotangents at the logits, one for each image, of mean square 1."""
    shape = (last.weights.channels, last.made.var.shape[-1])
    u = torch.randn(shape, generator=generator("logits", seed), dtype=torch.float64)
    return u / u.square().mean(0).sqrt()


def directions(
    above: FieldLayer, d: Cotangents, received: Cotangent, samples: int, *place: object
) -> Float[Tensor, "sample point"]:
    """What the channels of a layer receive from channels above, through independent weights.

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
