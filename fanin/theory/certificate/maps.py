"""One layer's moments, position by position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from fanin.theory.field import Sampling, walk_field
from fanin.theory.moments import LayerMoments

Map = Float[np.ndarray, "image *position"]


@dataclass(frozen=True)
class Maps:
    """Moments over draws of the weights, at each position of each image.

    Attributes
    ----------
    mean, m2
        E[y(p)] and E[y(p)^2] of the pre-activation.
    vjp_m2
        E[d(p)^2] of the cotangent.
    """

    mean: Map
    m2: Map
    vjp_m2: Map


def layer_maps(
    model: nn.Module,
    moments: Mapping[str, LayerMoments],
    images: Float[Tensor, "image ..."],
    name: str,
    seed: int = 0,
) -> Maps:
    """Walk the field and keep one layer's maps, averaged over what the theory samples."""
    passes = walk_field(model, moments, images, sampling=Sampling(seed=seed)).passes
    found = [next(layer for layer in layers if layer.name == name) for layers in passes]
    shape = (len(images), *found[0].taps.positions)

    def over_repeats(maps: list[Tensor]) -> Map:
        # Over particles and, in a grouped first layer, over its groups.
        return np.mean([each.mean((1, 2)).reshape(shape).numpy() for each in maps], axis=0)

    return Maps(
        mean=over_repeats([layer.made.expected_mean for layer in found]),
        m2=over_repeats([layer.made.m2 for layer in found]),
        vjp_m2=over_repeats([layer.cotangent.m2 for layer in found if layer.cotangent is not None]),
    )
