"""Theory `finite_width`: the moments of one draw.

Networks of linear layers are sampled exactly without weight matrices (method `sampled`).
Convolutional networks get the values of theory `field`, and a spread from differentiating the
field's recursion (method `first_order`), if the estimated error of that spread is small. All other
networks are drawn and measured (method `simulated`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from fanin.inits.weight_shape import WeightLayer, WeightShape, weight_layers
from fanin.theory.field import FieldLayer, Sampling, predict_field, propagate_field
from fanin.theory.finite_width.dead import dead_probability
from fanin.theory.finite_width.dense import is_dense, simulate_dense
from fanin.theory.finite_width.first_order import FreeFraction, LogMoments, log_moments
from fanin.theory.finite_width.grouped import ungroup_first_layer
from fanin.theory.finite_width.simulate import SIGNED_QUANTITIES, simulate_networks
from fanin.theory.layer_kind import LayerKind, Mixing, UnpredictableLayer
from fanin.theory.layers import NamedLayer
from fanin.theory.mean_field import unit_moments
from fanin.theory.moments import LayerMoments, moments_of
from fanin.theory.network import ParsedNetwork, Stage, parse_network
from fanin.theory.prediction import DrawDistribution, Prediction

MAX_POINTS = 2048  # of a field with covariances of all layers
MAX_SPREAD_ERROR = 0.1  # largest estimated relative error of a first-order spread
MAX_DEAD = 0.01  # largest probability of a dead layer; first order predicts no moments of 0
LOG_STEP = 1e-3  # of log E[y^2]
SPREAD_NODES = 15  # of the quadrature over log E[y^2]


def predict_finite_width(
    model: nn.Module,
    moments: Mapping[str, LayerMoments],
    images: Float[Tensor, "image channel height width"],
    *,
    seed: int = 0,
    layer_kinds: Sequence[LayerKind] = (),
    field: Callable[[], Prediction] | None = None,
) -> Prediction:
    """Predict the moments of one draw, on each image and on the mean over images.

    Parameters
    ----------
    model
        A sequence of modules. Its weights are not read.
    moments
        Moments of each weight layer, by module path.
    images
        Network inputs, already scaled.
    seed
        Seed of all samples.
    layer_kinds
        Additional layer kinds.
    field
        Function that returns the prediction of theory `field`, called if it is needed. None
        computes it.

    Returns
    -------
    Prediction
        Theory `finite_width`: preact_m2, preact_mean, preact_var, vjp_m2, weight_vjp_m2, with the
        spread of one draw's log-moment (NaN for preact_mean, which has a sign).

    Raises
    ------
    UnpredictableLayer
        A module without a formula, a model that is not a plain sequence, or a layer with unknown
        moments.

    Examples
    --------
    >>> import torch
    >>> from fanin.inits import Moments
    >>> he = {"1": LayerMoments(Moments(0.0, 2 / 64), Moments(0.0, 0.0))}
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 50))
    >>> row = predict_finite_width(model, he, torch.ones(1, 1, 8, 8)).to_frame().iloc[0]
    >>> row.quantity, round(float(row.value), 1), round(float(row.log_sd), 1)
    ('preact_m2', 2.0, 0.2)
    """
    net = parse_network(model, images.shape[1:], layer_kinds)
    names = tuple(stage.name for stage in net.stages)
    if is_dense(model, net):
        samples = simulate_dense(model, net, moments, net.first_input(images), seed=seed)
        return Prediction("finite_width", "sampled", names, {}, samples.distributions())
    if reason_against_first_order(model, net, moments) is None:
        field = field or partial(
            predict_field,
            *(model, moments, images),
            sampling=Sampling(seed=seed),
            layer_kinds=layer_kinds,
        )
        laws = _predict_first_order(model, net, moments, images, field(), seed, layer_kinds)
        if laws is not None:
            return Prediction("finite_width", "first_order", names, {}, laws)
    samples = simulate_networks(model, net, moments, images, seed=seed)
    return Prediction("finite_width", "simulated", names, {}, samples.distributions())


def _predict_first_order(
    model: nn.Module,
    net: ParsedNetwork,
    moments: Mapping[str, LayerMoments],
    images: Tensor,
    prediction: Prediction,
    seed: int,
    layer_kinds: Sequence[LayerKind],
) -> dict[str, DrawDistribution] | None:
    """Predict with the first-order law; None if its estimated error is too large.

    Parameters
    ----------
    prediction
        Prediction of theory `field`.
    """
    field = prediction.to_frame()
    if not np.isfinite(field[field.quantity != "act_zero_fraction"].value).all():
        return None
    spread = spread_of_draws(model, net, moments, images, field, seed, layer_kinds)
    if spread.dead_probability > MAX_DEAD:
        return None
    m2, log_sd = prediction.value("preact_m2"), spread.log_sd["preact_m2"]
    try:
        error = estimate_spread_error(model, net, moments, m2, log_sd[:-1])
    except UnpredictableLayer:  # a layer kind of the user without a scalar rule
        return None
    if error > MAX_SPREAD_ERROR:
        return None
    laws: dict[str, DrawDistribution] = {}
    for quantity in (*spread.log_sd, *SIGNED_QUANTITIES):
        rows = field[field.quantity == quantity]
        value, se = (
            rows[column].to_numpy().reshape(len(images) + 1, len(net.stages))
            for column in ("value", "sampling_se")
        )
        if quantity in spread.shift:
            own = value[:-1] * np.exp(spread.shift[quantity])
            value = np.concatenate([own, own.mean(0, keepdims=True)])
        if quantity == "preact_var":
            value = (value - spread.grand_mean_share * laws["preact_m2"].value).clip(min=0)
        log_sd = spread.log_sd.get(quantity, np.full_like(value, np.nan))
        laws[quantity] = DrawDistribution(value, log_sd, se)
    return laws


def reason_against_first_order(
    model: nn.Module, net: ParsedNetwork, moments: Mapping[str, LayerMoments]
) -> str | None:
    """Return the reason why a network has no first-order law; None if it has one.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    >>> net = parse_network(model.train(), (1, 4, 4))
    >>> reason_against_first_order(model, net, {})
    'BatchNorm2d has no first-order law'
    """
    for layer in (*net.before, *(layer for stage in net.stages for layer in stage.after)):
        if not layer.kind.first_order:
            return f"{type(layer.module).__name__} has no first-order law"
    if not all(_is_linear(layer) for layer in net.stages[-1].after):
        return "a module after the last weight layer is not linear"
    shapes = [WeightShape.of(weight_layers(model)[stage.name]) for stage in net.stages[:2]]
    groups = shapes[0].groups
    if groups > 1:
        if len(shapes) == 1 or shapes[1].groups > 1:
            return "the first layer is grouped, and the second layer does not read all groups"
        if moments_of(moments, net.stages[0].name).dependence != "independent":
            return "the first layer is grouped and orthogonal"
    positions = [groups * net.stages[0].positions, *(stage.positions for stage in net.stages[1:])]
    if max(positions) > MAX_POINTS:
        return f"a layer has more than {MAX_POINTS} positions"
    if any(_has_nonzero_mean(moments_of(moments, stage.name)) for stage in net.stages):
        return "weights have a non-zero mean"
    return None


def _is_linear(layer: NamedLayer) -> bool:
    try:
        step = layer.field()
    except UnpredictableLayer:
        return False
    return layer.kind.reshapes or (isinstance(step, Mixing) and step.linear)


def _has_nonzero_mean(layer: LayerMoments) -> bool:
    return bool(torch.as_tensor(layer.weight.mean).any())


def estimate_spread_error(
    model: nn.Module,
    net: ParsedNetwork,
    moments: Mapping[str, LayerMoments],
    m2: Float64[np.ndarray, "image layer"],
    log_sd: Float64[np.ndarray, "image layer"],
) -> float:
    """Estimate the largest relative error of the first-order spreads of a network.

    Two terms of second order are counted. (1) The log-moment of a layer determines that of the next
    layer, by a function f of the modules between them and the next layer's bias. The first-order
    law replaces f by its tangent. Here the passed variance is that of f(t), t normal, and each
    layer keeps its own contribution, the rest of its first-order variance. (2) The relative error
    of a law in 1 / C with C channels is of order 1 / C; it is taken as 1 / (2 C) of the narrowest
    layer.

    Parameters
    ----------
    m2, log_sd
        Second moments of the pre-activations, and first-order spreads of their logarithms.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(SPREAD_NODES)
    weights = weights / weights.sum()
    largest = 0.0
    biases = [float(moments_of(moments, stage.name).bias.second_moment) for stage in net.stages]
    for image_m2, first_order in zip(m2, log_sd**2, strict=True):
        variance = first_order[0]
        for index, stage in enumerate(net.stages[:-1]):
            if not (0 < image_m2[index] < np.inf and variance > 0):
                variance = first_order[index + 1]
                continue
            steps = np.array([0.0, -LOG_STEP, LOG_STEP, *(variance**0.5 * nodes - variance / 2)])
            log_output = _log_output_m2(stage, image_m2[index] * np.exp(steps))
            bias = min(biases[index + 1] / image_m2[index + 1], 1.0)  # its share
            log_next = np.log((1 - bias) * np.exp(log_output - log_output[0]) + bias)
            slope = (log_next[2] - log_next[1]) / (2 * LOG_STEP)
            values = log_next[3:]
            passed = weights @ values**2 - (weights @ values) ** 2
            own = max(first_order[index + 1] - slope**2 * first_order[index], 0.0)
            variance = own + passed
            if first_order[index + 1] > 0 and variance > 0:
                largest = max(largest, abs(np.log(variance / first_order[index + 1])) / 2)
    layers = weight_layers(model)
    channels = [WeightShape.of(layers[stage.name]).out_features for stage in net.stages[:-1]]
    return largest + 1 / (2 * min(channels, default=np.inf))


def _log_output_m2(stage: Stage, m2: np.ndarray) -> np.ndarray:
    var = torch.as_tensor(m2)
    return np.asarray(unit_moments(stage.after, torch.zeros_like(var), var).m2.log())


@dataclass(frozen=True)
class Spread:
    """Spread of one draw's moments, for each image and for the mean over images.

    Attributes
    ----------
    log_sd
        Standard deviation of the log-moment, for every quantity without a sign.
    shift
        log(E[moment] / value of theory `field`), of order 1 / width.
    grand_mean_share
        E[(mean of y over all units and positions)^2] / E[y^2]. It is of order 1 / width and not
        part of preact_var.
    dead_probability
        Largest `dead_probability` of an image.
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
) -> Spread:
    """Compute the first-order spread for each image and for the mean over images.

    The spread of the mean needs the joint field of the images. It is computed for the first images
    that fit into `MAX_POINTS` points, and the correlation between two images' log-moments is
    assumed equal for all pairs.

    Parameters
    ----------
    field
        The table of theory `field`.
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

    single, grand_mean_shares, dead = [], [], 0.0
    for image in images:
        layers = propagate_layers(image[None])
        single.append(logarithms(layers, 1))
        grand_mean_shares.append([_grand_mean_share(layer) for layer in layers])
        dead = max(dead, dead_probability(net, layers))
    groups = WeightShape.of(modules[net.stages[0].name]).groups
    points = max(groups * net.stages[0].positions, *(stage.positions for stage in net.stages))
    n_joint = min(len(images), MAX_POINTS // points)
    joint = logarithms(propagate_layers(images[:n_joint]), n_joint) if n_joint > 1 else None
    log_sd, shift = {}, {}
    for quantity in single[0].variance:
        values = field[(field.quantity == quantity) & (field.image >= 0)].value.to_numpy()
        values = values.reshape(len(images), -1)
        shift[quantity] = np.stack([moments.shift[quantity] for moments in single])
        own = np.stack([moments.variance[quantity] for moments in single])
        joint_part = own[:n_joint], values[:n_joint]
        correlation = np.ones(own.shape[1])
        if joint is not None:
            correlation = _correlation(joint.variance[quantity], *joint_part)
        variance = np.concatenate([own, _variance_of_mean(own, values, correlation)[None]])
        is_zero = np.concatenate([values, values.sum(0)[None]]) == 0
        log_sd[quantity] = np.where(is_zero, 0.0, np.sqrt(variance))
    shares = np.array([*grand_mean_shares, np.mean(grand_mean_shares, 0)])
    return Spread(log_sd, shift, shares, dead)


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


def free_fraction(
    layer: WeightLayer, moments: LayerMoments, group_similarity: float = 0.0
) -> FreeFraction:
    """Return the fractions of the second moments' variance that a layer's weights add.

    An orthogonal matrix with at least as many outputs as inputs preserves dot products. With fewer
    outputs it preserves a part of them. The same holds backward if the kernel has one tap. Section
    5.3 of docs/appendix/derivations.md derives the case of one matrix for several groups.

    Parameters
    ----------
    group_similarity
        Squared cosine of the inputs of two groups; it matters if groups share a matrix.

    Examples
    --------
    >>> from fanin.inits import Moments
    >>> moments = LayerMoments(Moments(0.0, 0.1), Moments(0.0, 0.0), "orthogonal")
    >>> free_fraction(nn.Linear(40, 10), moments)
    FreeFraction(forward=0.75, backward=0.0)
    """
    if moments.dependence == "independent":
        return FreeFraction()
    shape = WeightShape.of(layer)
    # Different variances per tap mean that the kernel has one non-zero tap.
    one_tap = shape.taps == 1 or torch.as_tensor(moments.weight.var).ndim > 0
    inputs = shape.one_group.in_features if one_tap else shape.fan_in
    outputs = shape.one_group.out_features
    if moments.dependence == "orthogonal_per_group":
        size, similar_groups = max(outputs, inputs), 1.0
    else:
        size = max(shape.out_features, inputs)
        similar_groups = 1 + (shape.groups - 1) * group_similarity
    return FreeFraction(
        forward=max(0.0, 1 - outputs / size * similar_groups),
        backward=max(0.0, 1 - inputs / size) if one_tap else 1.0,
    )


def group_similarity(layer: FieldLayer) -> float:
    """Return the squared cosine of the inputs of two groups, averaged over pairs of positions.

    Two groups read different channels, which are independent and have equal means. So the cosine is
    E[x]^2 / E[x^2] at a single position: 1 / pi behind a ReLU.
    """
    if layer.weights.groups == 1:
        return 0.0
    inputs, taps, var = layer.inputs, layer.taps, layer.weights.var
    assert inputs.products is not None
    means = inputs.mean[..., :, None] * inputs.mean[..., None, :]
    within, between = (taps.forward_products(x, var) for x in (inputs.products, means))
    total = float(within.square().sum())
    return float(between.square().sum()) / total if total > 0 else 0.0
