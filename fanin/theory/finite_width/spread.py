"""First-order spread for single images and for the mean over images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Float64
from torch import Tensor, nn

from fanin.inits.weight_shape import WeightShape, weight_layers
from fanin.progress import set_part
from fanin.theory.field import FieldLayer, Sampling, propagate_field
from fanin.theory.finite_width.dead import dead_probability
from fanin.theory.finite_width.first_order import LogMoments, log_moments
from fanin.theory.finite_width.free_fraction import free_fraction, group_similarity
from fanin.theory.finite_width.grouped import ungroup_first_layer
from fanin.theory.finite_width.limits import MAX_POINTS
from fanin.theory.layer_kind import LayerKind
from fanin.theory.moments import LayerMoments, moments_of
from fanin.theory.network import ParsedNetwork


@dataclass(frozen=True)
class Spread:
    """Spread of one draw's moments, for each image and for the mean over images.

    Attributes
    ----------
    log_sd
        Standard deviation of the log-moment, for every quantity without a sign. NaN for images,
        and for the mean over images, if this spread was not needed.
    shift
        log(E[moment] / value of theory `field`), of order 1 / width.
    grand_mean_share
        E[(mean of y over all units and positions)^2] / E[y^2]. It is of order 1 / width and not
        part of preact_var.
    dead_probability
        Upper bound of the probability that a layer is dead, for the image with the largest one.
    """

    log_sd: Mapping[str, Float64[np.ndarray, "row layer"]]
    shift: Mapping[str, Float64[np.ndarray, "image layer"]]
    grand_mean_share: Float64[np.ndarray, "row layer"]
    dead_probability: float


def spread_of_draws(
    model: nn.Module,
    net: ParsedNetwork,
    moments: Mapping[str, LayerMoments],
    images: Float[Tensor, "image ..."],
    field: pd.DataFrame,
    seed: int,
    layer_kinds: Sequence[LayerKind] = (),
    individual: Sequence[int] | None = None,
    mean: bool = True,
) -> Spread:
    """Compute the first-order spread for each image and for the mean over images.

    The spread of the mean needs the joint field of the images. It is computed for the first images
    that fit into `MAX_POINTS` points, and the correlation between two images' log-moments is
    assumed equal for all pairs. Images without a spread of their own enter this mean with the
    average variance and shift of the other images.

    Parameters
    ----------
    field
        The table of theory `field`.
    individual
        Images that need a spread of their own. None: all.
    mean
        True if the mean over images needs a spread.
    """
    modules = weight_layers(model)

    def propagate_layers(images: Tensor) -> tuple[FieldLayer, ...]:
        result = propagate_field(
            model,
            moments,
            images,
            joint=len(images) > 1,
            sampling=Sampling(repeats=1, seed=seed),
            keep_covariances=True,
            layer_kinds=layer_kinds,
        )
        (layers,) = result.passes
        return ungroup_first_layer(layers, len(images))

    def logarithms(layers: tuple[FieldLayer, ...], images_per_field: int) -> LogMoments:
        free_fractions = []
        for layer in layers:
            declared = moments_of(moments, layer.name)
            is_shared = declared.dependence == "orthogonal"
            similarity = group_similarity(layer) if is_shared else 0.0
            free_fractions.append(free_fraction(modules[layer.name], declared, similarity))
        return log_moments(layers, free_fractions, images_per_field=images_per_field, seed=seed)

    groups = WeightShape.of(modules[net.stages[0].name]).groups
    points = max(groups * net.stages[0].positions, *(stage.positions for stage in net.stages))
    n_joint = min(len(images), MAX_POINTS // points) if mean else 0
    chosen = list(range(len(images)))
    if individual is not None:
        chosen = sorted({*individual, *range(n_joint)}) or [0]
    single, grand_mean_shares, dead = [], [], 0.0
    for number, index in enumerate(chosen):
        set_part("image", number, len(chosen), is_share=True)
        layers = propagate_layers(images[[index]])
        single.append(logarithms(layers, 1))
        grand_mean_shares.append(np.array([_grand_mean_share(layer) for layer in layers]))
        dead = max(dead, dead_probability(net, layers))

    def of_all_images(rows: Sequence[np.ndarray]) -> Float64[np.ndarray, "image layer"]:
        filled = np.tile(np.mean(rows, 0), (len(images), 1))
        filled[chosen] = rows
        return filled

    joint = logarithms(propagate_layers(images[:n_joint]), n_joint) if n_joint > 1 else None
    log_sd, shift = {}, {}
    for quantity in single[0].variance:
        values = field[(field.quantity == quantity) & (field.image >= 0)].value.to_numpy()
        values = values.reshape(len(images), -1)
        shift[quantity] = of_all_images([moments.shift[quantity] for moments in single])
        own = of_all_images([moments.variance[quantity] for moments in single])
        joint_part = own[:n_joint], values[:n_joint]
        correlation = np.ones(own.shape[1])
        if joint is not None:
            correlation = _correlation(joint.variance[quantity], *joint_part)
        variance = np.concatenate([own, _variance_of_mean(own, values, correlation)[None]])
        is_zero = np.concatenate([values, values.sum(0)[None]]) == 0
        log_sd[quantity] = np.where(is_zero, 0.0, np.sqrt(variance))
        log_sd[quantity][np.setdiff1d(range(len(images)), chosen)] = np.nan
        if not mean:
            log_sd[quantity][-1] = np.nan
    shares = of_all_images(grand_mean_shares)
    return Spread(log_sd, shift, np.vstack([shares, shares.mean(0)]), dead)


def _grand_mean_share(layer: FieldLayer) -> float:
    assert layer.preact.cov is not None
    m2 = float(layer.preact.m2.mean())
    return float(layer.preact.cov.mean()) / layer.weights.out_channels / m2 if m2 > 0 else 0.0


def _correlation(
    joint: Float64[np.ndarray, " layer"],
    own: Float64[np.ndarray, "image layer"],
    values: Float64[np.ndarray, "image layer"],
) -> Float64[np.ndarray, " layer"]:
    uncorrelated, correlated = (
        _variance_of_mean(own, values, np.full(own.shape[1], c)) for c in (0.0, 1.0)
    )
    width = correlated - uncorrelated
    share = np.divide(joint - uncorrelated, width, out=np.zeros_like(width), where=width > 0)
    return share.clip(0, 1)


def _variance_of_mean(
    own: Float64[np.ndarray, "image layer"],
    values: Float64[np.ndarray, "image layer"],
    correlation: Float64[np.ndarray, " layer"],
) -> Float64[np.ndarray, " layer"]:
    """Compute the log-variance of a mean of equally correlated moments, to first order."""
    total = values.sum(0)
    weights = np.divide(values, total, out=np.zeros_like(values), where=total > 0)
    parts = weights * np.sqrt(own)
    squares = np.square(parts).sum(0)
    mean: np.ndarray = squares + correlation * (np.square(parts.sum(0)) - squares)
    return mean
