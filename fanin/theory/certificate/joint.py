"""Quantities that depend on several images: their correlation, and units dead on all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fanin.progress import set_phase
from fanin.seeds import make_generator
from fanin.theory.certificate.segments import Segment
from fanin.theory.certificate.weights import (
    WeightMoments,
    build_sequential,
    decode_name,
    encode_name,
)
from fanin.theory.cost import JOINT_PHASE, joint_seconds
from fanin.theory.field import FieldLayer, Sampling, propagate_field
from fanin.theory.field.sampling import factor
from fanin.theory.field.state import select_fields
from fanin.theory.layer_kind import LayerKind, UnpredictableLayer
from fanin.theory.moments import LayerMoments
from fanin.theory.network import parse_network

MAX_CHEAP_POINTS = 1024  # images times positions
MAX_CHEAP_SECONDS = 10.0  # expected time
REPEATS = 2
MIN_SAMPLES, MAX_SAMPLES = 2**12, 2**14  # samples of a layer's field
MAX_SAMPLE_SIZE = 2**22  # numbers in all samples of a layer


@dataclass(frozen=True)
class JointQuantities:
    """Quantities of one layer that depend on all images.

    Attributes
    ----------
    input_correlation
        Mean over pairs of images of y_a.y_b / (|y_a| |y_b|); NaN for a single image.
    dead_fraction
        Expected fraction of units (channels) that are zero at every position of every image; NaN
        if no elementwise activation follows.
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
    """Predict the joint quantities of each layer with one field over all images.

    Raises
    ------
    UnpredictableLayer
        Theory `field` has no formula for a layer, or the field has too many points.
    """
    sampling = Sampling(seed=seed, repeats=REPEATS)
    passes = propagate_field(
        model, moments, images, joint=True, sampling=sampling, layer_kinds=layer_kinds
    ).passes
    repeats: dict[str, list[JointQuantities]] = {}
    for layers in passes:
        for number, layer in enumerate(layers):
            generator = make_generator("dead", seed, number)
            joint = JointQuantities(
                _correlation(layer, len(images)), _dead_fraction(layer, generator)
            )
            repeats.setdefault(layer.name, []).append(joint)
    n = len(passes)
    return {
        name: JointQuantities(
            sum(joint.input_correlation for joint in joints) / n,
            sum(joint.dead_fraction for joint in joints) / n,
        )
        for name, joints in repeats.items()
    }


def joint_rows(
    segments: Sequence[Segment], weights: WeightMoments, seed: int = 0, joint: bool | None = None
) -> pd.DataFrame:
    """Return the joint quantities as rows of the `predictions` table without the column `layer`.

    Parameters
    ----------
    segments
        Segments of the network.
    weights
        Moments of the weights.
    seed
        Seed of the theory's own sampling.
    joint
        False skips all segments. None skips segments that are not cheap (`predicts_joint`).
    """
    rows = []
    moments = {encode_name(name): layer for name, layer in weights.moments.items()}
    for segment in segments:
        net = build_sequential(segment.parts)
        if not predicts_joint(net, segment.inputs[0], moments, joint, segment.layer_kinds):
            continue
        set_phase(JOINT_PHASE)
        joints = [
            predict_joint_quantities(net, moments, x, seed, segment.layer_kinds)
            for x in segment.inputs
        ]
        for name in joints[0]:
            for quantity in ("input_correlation", "dead_fraction"):
                values = np.array([getattr(layers[name], quantity) for layers in joints])
                error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0
                rows.append(
                    {
                        "image": -1,
                        "layer_name": decode_name(name),
                        "quantity": quantity,
                        "theory": "field",
                        "method": "sampled",
                        "value": values.mean(),
                        "log_sd": nan,
                        "sampling_se": error,
                        "zero_probability": nan,
                        "log_skew": nan,
                        "basis": segment.basis,
                    }
                )
    return pd.DataFrame(rows)


def predicts_joint(
    model: nn.Module,
    images: Float[Tensor, "image ..."],
    moments: Mapping[str, LayerMoments],
    joint: bool | None,
    layer_kinds: Sequence[LayerKind] = (),
) -> bool:
    """Return the option `joint` of `certify`, with None replaced by True if the cost is small.

    It is if no layer has more than `MAX_CHEAP_POINTS` points for all images together, and the
    expected time is at most `MAX_CHEAP_SECONDS`.
    """
    if joint is not None:
        return joint
    try:
        net = parse_network(model, tuple(images.shape[1:]), layer_kinds)
    except UnpredictableLayer:
        return False
    points = len(images) * max(stage.positions for stage in net.stages)
    seconds = joint_seconds(net, moments, len(images))
    return points <= MAX_CHEAP_POINTS and seconds <= MAX_CHEAP_SECONDS


def _correlation(layer: FieldLayer, images: int) -> float:
    preact = layer.preact
    if images < 2 or preact.cov is None:
        return nan
    products = preact.cov + preact.mean[..., :, None] * preact.mean[..., None, :]
    blocks = products.unflatten(-1, (images, -1)).unflatten(-3, (images, -1))
    # Inner products of whole maps: sums over positions, and over the groups of a first layer.
    inner = blocks.diagonal(dim1=-3, dim2=-1).sum(-1).sum(2)
    norm = inner.diagonal(dim1=-2, dim2=-1).sqrt()
    is_nonzero = norm > 0  # the correlation with a zero map is undefined
    cosine = inner / (norm[..., :, None] * norm[..., None, :])
    different = ~torch.eye(images, dtype=torch.bool)
    pairs = is_nonzero[..., :, None] & is_nonzero[..., None, :] & different
    return float(cosine[pairs].mean()) if pairs.any() else nan


def _dead_fraction(layer: FieldLayer, generator: torch.Generator) -> float:
    preact = layer.preact
    if layer.activation is None or preact.cov is None:
        return nan
    root = factor(preact.cov)
    means = preact.mean.expand(*preact.field_shape, -1).flatten(0, 2)
    fractions = []
    for index, mean in enumerate(means):
        state_root = select_fields(root, preact.field_shape, slice(index, index + 1))[0]
        samples = min(max(MIN_SAMPLES, MAX_SAMPLE_SIZE // len(mean)), MAX_SAMPLES)
        z = torch.randn(samples, state_root.shape[-1], generator=generator, dtype=torch.float64)
        units = layer.activation(mean + z @ state_root.T)
        fractions.append(float((units == 0).all(-1).double().mean()))
    return sum(fractions) / len(fractions)
