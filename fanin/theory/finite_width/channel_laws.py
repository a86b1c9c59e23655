"""Laws of one draw's moments from sampled channels, for networks without a first-order law."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from fanin.inits.weight_shape import WeightShape, weight_layers
from fanin.theory.field import FieldLayer, Sampling, couples_images, propagate_field
from fanin.theory.finite_width.channel_chain import sample_channels
from fanin.theory.finite_width.limits import has_nonzero_mean
from fanin.theory.finite_width.simulate import affordable_draws
from fanin.theory.layer_kind import LayerKind, UnpredictableLayer
from fanin.theory.layers import BATCH_NORM, CHANNEL_DROPOUT, LAYER_NORM, MEAN_ONLY
from fanin.theory.moments import LayerMoments, moments_of
from fanin.theory.network import ParsedNetwork
from fanin.theory.prediction import DrawDistribution

MIN_CHANNELS = 8  # the law neglects relative effects of 1 / C that depend on pairs of positions
SAMPLED_KINDS = (BATCH_NORM, LAYER_NORM, MEAN_ONLY, CHANNEL_DROPOUT)
"""Kinds without a first-order law whose channels can be sampled."""
MAX_POINTS = 1024  # of a field; the time grows with their third power, times the particles
# Numbers in the covariances of theory `field`, which keeps those of all layers: 1.6 GB.
MAX_COVARIANCES = 2e8
COVARIANCES = 4  # of a layer with weights of mean zero
SHARED_COVARIANCES = 80  # of other layers: ten for each of 8 particles
DRAWS_PER_SIMULATED = 2  # sampled draws, which have no weights, per simulated one
MAX_DRAWS = 2000


def reason_against_samples(
    model: nn.Module, net: ParsedNetwork, moments: Mapping[str, LayerMoments], n_images: int
) -> str | None:
    """Return the reason why the channels of a network cannot be sampled; None if they can.

    Parameters
    ----------
    n_images
        Images that share one field.

    Examples
    --------
    >>> from fanin.theory.network import parse_network
    >>> from fanin.inits import Init, Uniform
    >>> from fanin.theory.moments import declared_moments
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    >>> moments = declared_moments(model, Init(Uniform(0, 1)))
    >>> reason_against_samples(model, parse_network(model, (1, 4, 4)), moments, 1)
    'a layer has fewer than 8 channels'
    """
    layers = weight_layers(model)
    zero_mean = not any(has_nonzero_mean(moments_of(moments, name)) for name in layers)
    between = [layer for stage in net.stages for layer in stage.after]
    if zero_mean and not any(layer.kind in SAMPLED_KINDS for layer in between):
        return "spreads depend on correlations between positions, which vary between draws"
    for layer in (*net.before, *between):
        if not (layer.kind.first_order or layer.kind in SAMPLED_KINDS):
            return f"the channels after {type(layer.module).__name__} cannot be sampled"
        try:
            layer.field()
        except UnpredictableLayer:
            return f"theory `field` has no rule for {type(layer.module).__name__}"
    channels = [WeightShape.of(layers[stage.name]).out_features for stage in net.stages[:-1]]
    if min(channels, default=MIN_CHANNELS) < MIN_CHANNELS:
        return f"a layer has fewer than {MIN_CHANNELS} channels"
    if any(moments_of(moments, name).dependence != "independent" for name in layers):
        return "weights are orthogonal"
    if n_images * max(stage.positions for stage in net.stages) > MAX_POINTS:
        return f"a layer has more than {MAX_POINTS} positions on the images"
    pairs = sum((n_images * stage.positions) ** 2 for stage in net.stages)
    if pairs * (COVARIANCES if zero_mean else SHARED_COVARIANCES) > MAX_COVARIANCES:
        return "the covariances of all positions do not fit into memory"
    return None


def sampled_draws(model: nn.Module, net: ParsedNetwork, n_images: int) -> int:
    """Return the number of sampled draws."""
    return min(MAX_DRAWS, DRAWS_PER_SIMULATED * affordable_draws(model, net, n_images))


def laws_by_channels(
    model: nn.Module,
    net: ParsedNetwork,
    moments: Mapping[str, LayerMoments],
    images: Float[Tensor, "image channel *position"],
    *,
    seed: int,
    layer_kinds: Sequence[LayerKind],
    mean: bool,
) -> dict[str, DrawDistribution] | None:
    """Fit the distributions of one draw's moments to sampled channels; None if there are none.

    Parameters
    ----------
    mean
        True if the mean over images needs a distribution. If it is False, images are sampled one
        by one if their joint covariances do not fit into memory.
    """
    parts = [images]
    if reason_against_samples(model, net, moments, len(images)) is not None:
        parts = list(images.split(1))
        if mean or couples_images(model, layer_kinds):
            return None
        if reason_against_samples(model, net, moments, 1) is not None:
            return None
    draws = sampled_draws(model, net, len(images))
    laws = []
    for part in parts:
        try:
            (layers,) = propagate_field(
                model,
                moments,
                part,
                joint=len(part) > 1,
                sampling=Sampling(repeats=1, seed=seed),
                keep_covariances=True,
                layer_kinds=layer_kinds,
            ).passes
        except UnpredictableLayer:
            return None
        if not _is_representable(layers):
            return None
        samples = sample_channels(layers, net.first_input(part), draws=draws, seed=seed)
        laws.append(samples.distributions())
    if len(laws) == 1:
        return laws[0]
    return {name: _join([law[name] for law in laws]) for name in laws[0]}


def _is_representable(layers: Sequence[FieldLayer]) -> bool:
    """Return True if all moments are stored without a scale, within the range of float64."""
    for layer in layers:
        assert layer.cotangent is not None
        for moments in (layer.preact, layer.cotangent):
            if moments.log_scale != 0 or not bool(moments.m2.isfinite().all()):
                return False
    return True


def _join(laws: Sequence[DrawDistribution]) -> DrawDistribution:
    """Join laws of single images; their mean has no distribution."""

    def rows(name: str) -> np.ndarray:
        shape = laws[0].value.shape
        return np.stack([np.broadcast_to(getattr(law, name), shape)[0] for law in laws])

    def with_last(x: np.ndarray, last: np.ndarray) -> np.ndarray:
        return np.concatenate([x, last[None]])

    value, log_sd, zero = rows("value"), rows("log_sd"), rows("zero_probability")
    se, skew = rows("sampling_se"), rows("log_skew")
    return DrawDistribution(
        with_last(value, value.mean(0)),
        with_last(log_sd, np.full(log_sd.shape[1], np.nan)),
        with_last(se, np.sqrt(np.square(se).sum(0)) / len(laws)),
        with_last(zero, zero.min(0)),
        with_last(skew, 0 * skew[0]),
    )
