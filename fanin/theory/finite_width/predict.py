"""Theory `finite_width`: the moments of one draw.

Networks of linear layers are simulated exactly without weight matrices. Wide convolutional networks
get the values of theory `field`, and a spread from differentiating the field's recursion. All other
networks are drawn and measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from fanin.inits.weight_shape import WeightLayer, WeightShape, weight_layers
from fanin.theory.field import FieldLayer, Sampling, predict_field, propagate_field
from fanin.theory.finite_width.dense import is_dense, simulate_dense
from fanin.theory.finite_width.first_order import FreeFraction, log_variances
from fanin.theory.finite_width.simulate import SIGNED_QUANTITIES, simulate_networks
from fanin.theory.layer_kind import LayerKind
from fanin.theory.mean_field import predict_mean_field, unit_moments
from fanin.theory.moments import LayerMoments, moments_of
from fanin.theory.network import ParsedNetwork, parse_network
from fanin.theory.prediction import DrawDistribution, Prediction

MIN_CHANNELS = 64  # with fewer channels, second-order terms in 1 / width matter
MAX_POINTS = 2048  # of a field with covariances of all layers
MAX_LOG_SENSITIVITY = 1.001  # rectifiers have 1
LOG_STEP = 1e-3  # of log E[y^2]
LogVariances = Mapping[str, Float64[np.ndarray, " layer"]]


def predict_finite_width(
    model: nn.Module,
    moments: Mapping[str, LayerMoments],
    images: Float[Tensor, "image channel height width"],
    *,
    seed: int = 0,
    layer_kinds: Sequence[LayerKind] = (),
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
        return Prediction("finite_width", names, {}, samples.distributions())
    if first_order_holds(model, net, moments, images, layer_kinds):
        sampling = Sampling(seed=seed)
        field = predict_field(
            model, moments, images, sampling=sampling, layer_kinds=layer_kinds
        ).to_frame()
        if np.isfinite(field[field.quantity != "act_zero_fraction"].value).all():
            laws = _predict_first_order(field, model, net, moments, images, seed, layer_kinds)
            return Prediction("finite_width", names, {}, laws)
    samples = simulate_networks(model, net, moments, images, seed=seed)
    return Prediction("finite_width", names, {}, samples.distributions())


def _predict_first_order(
    field: pd.DataFrame,
    model: nn.Module,
    net: ParsedNetwork,
    moments: Mapping[str, LayerMoments],
    images: Tensor,
    seed: int,
    layer_kinds: Sequence[LayerKind],
) -> dict[str, DrawDistribution]:
    spread = spread_of_draws(model, net, moments, images, field, seed, layer_kinds)
    laws: dict[str, DrawDistribution] = {}
    for quantity in (*spread.log_sd, *SIGNED_QUANTITIES):
        rows = field[field.quantity == quantity]
        value, se = (
            rows[column].to_numpy().reshape(len(images) + 1, len(net.stages))
            for column in ("value", "sampling_se")
        )
        if quantity == "preact_var":
            value = (value - spread.grand_mean_share * laws["preact_m2"].value).clip(min=0)
        log_sd = spread.log_sd.get(quantity, np.full_like(value, np.nan))
        laws[quantity] = DrawDistribution(value, log_sd, se)
    return laws


def first_order_holds(
    model: nn.Module,
    net: ParsedNetwork,
    moments: Mapping[str, LayerMoments],
    images: Float[Tensor, "image ..."],
    layer_kinds: Sequence[LayerKind] = (),
) -> bool:
    """Return True if the first-order spread around the field's values is accurate enough.

    It is not for weights of non-zero mean, because their mean maps fluctuate. It is not if errors
    grow through an activation (log-sensitivity above 1: GELU and SiLU at He's gain;
    docs/appendix/derivations.md, section 2.3). Layers of fewer than `MIN_CHANNELS` channels and
    fields of more than `MAX_POINTS` points are excluded too.
    """
    layers = (*net.before, *(layer for stage in net.stages for layer in stage.after))
    if not all(layer.kind.first_order for layer in layers):
        return False
    shapes = {name: WeightShape.of(layer) for name, layer in weight_layers(model).items()}
    if any(shapes[stage.name].out_features < MIN_CHANNELS for stage in net.stages[:-1]):
        return False
    if not all(layer.kind.reshapes for layer in net.stages[-1].after):
        return False  # a pooling that turns the last maps into logits, or a head
    if max(stage.positions for stage in net.stages) > MAX_POINTS:
        return False
    if shapes[net.stages[0].name].groups > 1:
        return False
    if any(_has_nonzero_mean(moments_of(moments, stage.name)) for stage in net.stages):
        return False
    return not _amplifies(model, net, moments, images, layer_kinds)


def _has_nonzero_mean(layer: LayerMoments) -> bool:
    return bool(torch.as_tensor(layer.weight.mean).any())


def _amplifies(
    model: nn.Module,
    net: ParsedNetwork,
    moments: Mapping[str, LayerMoments],
    images: Tensor,
    layer_kinds: Sequence[LayerKind],
) -> bool:
    predicted = predict_mean_field(model, moments, images, layer_kinds=layer_kinds)
    q = predicted.value("preact_m2").mean(0)
    scales = torch.tensor([-LOG_STEP, LOG_STEP], dtype=torch.float64).exp()
    for stage, moment in zip(net.stages[:-1], q[:-1], strict=True):
        if not 0 < moment < float("inf"):
            continue
        var = moment * scales
        low, high = unit_moments(stage.after, torch.zeros_like(var), var).m2.log().tolist()
        if (high - low) / (2 * LOG_STEP) > MAX_LOG_SENSITIVITY:
            return True
    return False


@dataclass(frozen=True)
class Spread:
    """Spread of one draw's moments, for each image and for the mean over images.

    Attributes
    ----------
    log_sd
        Standard deviation of the log-moment, for every quantity without a sign.
    grand_mean_share
        E[(mean of y over all units and positions)^2] / E[y^2]. It is of order 1 / width and not
        part of preact_var.
    """

    log_sd: Mapping[str, Float64[np.ndarray, "row layer"]]
    grand_mean_share: Float64[np.ndarray, "row layer"]


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
    free_fractions = [
        free_fraction(modules[s.name], moments_of(moments, s.name)) for s in net.stages
    ]

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
        return layers

    def variances(layers: tuple[FieldLayer, ...], images_per_field: int) -> LogVariances:
        return log_variances(layers, free_fractions, images_per_field=images_per_field, seed=seed)

    own_variances, grand_mean_shares = [], []
    for image in images:
        layers = propagate_layers(image[None])
        own_variances.append(variances(layers, 1))
        grand_mean_shares.append([_grand_mean_share(layer) for layer in layers])
    n_joint = min(len(images), MAX_POINTS // max(stage.positions for stage in net.stages))
    joint = variances(propagate_layers(images[:n_joint]), n_joint) if n_joint > 1 else None
    log_sd = {}
    for quantity in own_variances[0]:
        values = field[(field.quantity == quantity) & (field.image >= 0)].value.to_numpy()
        values = values.reshape(len(images), -1)
        own = np.stack([spread[quantity] for spread in own_variances])
        joint_part = own[:n_joint], values[:n_joint]
        correlation = np.ones(own.shape[1])
        if joint is not None:
            correlation = _correlation(joint[quantity], *joint_part)
        variance = np.concatenate([own, _variance_of_mean(own, values, correlation)[None]])
        is_zero = np.concatenate([values, values.sum(0)[None]]) == 0
        log_sd[quantity] = np.where(is_zero, 0.0, np.sqrt(variance))
    return Spread(log_sd, np.array([*grand_mean_shares, np.mean(grand_mean_shares, 0)]))


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


def free_fraction(layer: WeightLayer, moments: LayerMoments) -> FreeFraction:
    """Return the variance that a layer's weights add, divided by that of independent weights.

    An orthogonal matrix with at least as many outputs as inputs preserves dot products. With fewer
    outputs it preserves a part of them. The same holds backward if the kernel has one tap.

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
    one_tap = not shape.kernel or torch.as_tensor(moments.weight.var).ndim > 0
    inputs = shape.in_features // shape.groups if one_tap else shape.fan_in
    outputs = shape.out_features // shape.groups
    backward = max(0.0, 1 - inputs / outputs) if one_tap else 1.0
    return FreeFraction(max(0.0, 1 - outputs / inputs), backward)
