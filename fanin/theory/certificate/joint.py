"""JointQuantities quantities of several images: their correlation, and units that are dead on all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fanin.seeds import make_generator
from fanin.theory.certificate.segments import Segment
from fanin.theory.certificate.weights import (
    WeightMoments,
    build_sequential,
    decode_name,
    encode_name,
)
from fanin.theory.field import FieldLayer, Sampling, propagate_field
from fanin.theory.field.sampling import factor
from fanin.theory.layer_kind import LayerKind
from fanin.theory.moments import LayerMoments
from fanin.theory.network import parse_network

MAX_CHEAP_POINTS = (
    1024  # points of all images side by side: a second or two for a net of a few layers
)
REPEATS = 2
FEWEST, MOST = 2**12, 2**14  # samples of a layer's field
HELD = 2**22  # numbers in them


@dataclass(frozen=True)
class JointQuantities:
    """Two numbers of one layer, for all images together.

    Attributes
    ----------
    input_correlation
        Mean over pairs of images of y_a.y_b / (|y_a| |y_b|); NaN for one image.
    dead_fraction
        Expected share of units (channels) that are zero on every image, everywhere; NaN where no
        elementwise activation follows.
    """

    input_correlation: float
    dead_fraction: float


def predict_joint_quantities(
    model: nn.Module,
    moments: Mapping[str, LayerMoments],
    images: Float[Tensor, "image ..."],
    seed: int = 0,
    layer_kinds: Sequence[LayerKind] = (),
) -> dict[str, JointQuantities]:
    """Walk all images as one field.

    Raises
    ------
    UnpredictableLayer
        A layer without a field theory; more points than a field may have.
    """
    sampling = Sampling(seed=seed, repeats=REPEATS)
    passes = propagate_field(
        model, moments, images, joint=True, sampling=sampling, layer_kinds=layer_kinds
    ).passes
    found: dict[str, list[JointQuantities]] = {}
    for layers in passes:
        for number, layer in enumerate(layers):
            stream = make_generator("dead", seed, number)
            joint = JointQuantities(_correlation(layer, len(images)), _dead(layer, stream))
            found.setdefault(layer.name, []).append(joint)
    n = len(passes)
    return {
        name: JointQuantities(
            sum(each.input_correlation for each in repeats) / n,
            sum(each.dead_fraction for each in repeats) / n,
        )
        for name, repeats in found.items()
    }


def joint_rows(
    segments: Sequence[Segment], weights: WeightMoments, seed: int = 0, joint: bool | None = None
) -> pd.DataFrame:
    """JointQuantities quantities as rows of the `predictions` table, `layer` left out.

    Parameters
    ----------
    joint
        None: only where `is_cheap`.
    """
    rows = []
    moments = {encode_name(name): known for name, known in weights.moments.items()}
    for segment in segments:
        net = build_sequential(segment.parts)
        if joint is None and not is_cheap(net, segment.inputs[0], segment.layer_kinds):
            continue
        walked = [
            predict_joint_quantities(net, moments, x, seed, segment.layer_kinds)
            for x in segment.inputs
        ]
        for name in walked[0]:
            for quantity in ("input_correlation", "dead_fraction"):
                values = np.array([getattr(each[name], quantity) for each in walked])
                row = {"image": -1, "layer_name": decode_name(name), "quantity": quantity}
                numbers = {"theory": "field", "value": values.mean(), "log_sd": nan}
                error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0
                rows.append(row | numbers | {"sampling_se": error, "basis": segment.basis})
    return pd.DataFrame(rows)


def is_cheap(
    model: nn.Module,
    images: Float[Tensor, "image ..."],
    layer_kinds: Sequence[LayerKind] = (),
) -> bool:
    """Return True if the images' field is small in every layer."""
    stages = parse_network(model, tuple(images.shape[1:]), layer_kinds).stages
    return len(images) * max(stage.positions for stage in stages) <= MAX_CHEAP_POINTS


def _correlation(layer: FieldLayer, images: int) -> float:
    preact = layer.preact
    if images < 2 or preact.cov is None:
        return nan
    products = preact.cov + preact.mean[..., :, None] * preact.mean[..., None, :]
    blocks = products.unflatten(-1, (images, -1)).unflatten(-3, (images, -1))
    # Of whole maps: summed over positions, and over what the groups of a first layer read.
    of_pairs = blocks.diagonal(dim1=-3, dim2=-1).sum(-1).sum(2)
    length = of_pairs.diagonal(dim1=-2, dim2=-1).sqrt()
    heard = length > 0  # an image on which the layer is silent has no direction
    cosine = of_pairs / (length[..., :, None] * length[..., None, :])
    pairs = heard[..., :, None] & heard[..., None, :] & ~torch.eye(images, dtype=torch.bool)
    return float(cosine[pairs].mean()) if pairs.any() else nan


def _dead(layer: FieldLayer, stream: torch.Generator) -> float:
    preact = layer.preact
    if layer.activation is None or preact.cov is None:
        return nan
    # Beyond a few particles their scatter is smaller than that of any network's units.
    root = factor(preact.cov).flatten(0, 2)
    mean = preact.mean.expand(*preact.field_shape, -1).flatten(0, 2)
    dead = []
    for place, centre in enumerate(mean):
        spread = root[place % len(root)]
        samples = min(max(FEWEST, HELD // len(centre)), MOST)
        z = torch.randn(samples, spread.shape[-1], generator=stream, dtype=torch.float64)
        units = layer.activation(centre + z @ spread.T)
        dead.append(float((units == 0).all(-1).double().mean()))
    return sum(dead) / len(dead)
