"""Derivatives of a layer's log weight gradient by the moments that it is made of.

The gradient of a tap is a sum over positions of cotangent times input, so its mean square over
channels is bilinear in the cotangent's second moments and those of what the layer is fed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fanin.theory.field.state import FieldLayer
from fanin.theory.finite.forms import Forms, alone

ALL_FOLLOWED = 16  # conv layers up to which all weight gradients are followed through the network
FOLLOWED = (0.0, 0.15, 0.5, 1.0)  # places of those that are in deeper ones; the rest lie between


def followed(layers: Sequence[FieldLayer]) -> list[int]:
    """The layers whose weight gradients are followed; all of them, but for very deep networks."""
    maps = [number for number, layer in enumerate(layers) if not layer.taps.whole]
    if len(maps) > ALL_FOLLOWED:
        maps = [maps[round(share * (len(maps) - 1))] for share in FOLLOWED]
    return [number for number, layer in enumerate(layers) if layer.taps.whole or number in maps]


def by_cotangent(layer: FieldLayer, images: int) -> Tensor:
    """Derivative of a layer's log weight gradient by its cotangent's moments."""
    taps, fed = layer.taps, layer.fed
    assert fed.products is not None
    ones = torch.ones(taps.n_taps, dtype=torch.float64)
    form = taps.sum_covariances(alone(fed.products, 2)[None], ones)[0]
    # Each image has a gradient of its own.
    blocks = form.unflatten(1, (images, -1)).unflatten(0, (images, -1))
    own = torch.eye(images, dtype=torch.float64)[:, None, :, None]
    form = (blocks * own).flatten(2).flatten(0, 1)
    return form / _weight_gradient(layer, images)


def by_fed(layer: FieldLayer, images: int) -> Forms:
    """The same by the moments of what the layer is fed; diagonal where that's all there is."""
    taps, cotangent = layer.taps, layer.cotangent
    assert cotangent is not None
    ones = torch.ones(taps.n_taps, dtype=torch.float64)
    if cotangent.products is None:
        form = taps.send_variances(alone(cotangent.m2, 1), ones)
    else:
        form = taps.send_covariances(alone(cotangent.products, 2), ones)
    return form / _weight_gradient(layer, images)


def _weight_gradient(layer: FieldLayer, images: int) -> float:
    """The sum over taps of E[(dL/dw)^2]; inf where it vanishes."""
    taps, cotangent, fed = layer.taps, layer.cotangent, layer.fed
    assert cotangent is not None
    if cotangent.products is None:
        found = taps.gradient_of_variances(cotangent.m2, fed.m2, images)
    else:
        assert fed.products is not None
        found = taps.gradient_of_covariances(cotangent.products, fed.products, images)
    total = float(found.sum()) * taps.n_taps
    return total if total > 0 else float("inf")
