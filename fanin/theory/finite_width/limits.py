"""Limits of the first-order law: networks without one, and an estimate of its error."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float64
from torch import nn

from fanin.inits.weight_shape import WeightShape, weight_layers
from fanin.theory.layer_kind import Mixing, UnpredictableLayer
from fanin.theory.layers import NamedLayer
from fanin.theory.mean_field import unit_moments
from fanin.theory.moments import LayerMoments, moments_of
from fanin.theory.network import ParsedNetwork, Stage

MAX_POINTS = 2048  # of a field with covariances of all layers
LOG_STEP = 1e-3  # of log E[y^2]
SPREAD_NODES = 15  # of the quadrature over log E[y^2]


def reason_against_first_order(
    model: nn.Module, net: ParsedNetwork, moments: Mapping[str, LayerMoments]
) -> str | None:
    """Return the reason why a network has no first-order law; None if it has one.

    Examples
    --------
    >>> from fanin.theory.network import parse_network
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    >>> net = parse_network(model.train(), (1, 4, 4))
    >>> reason_against_first_order(model, net, {})
    'BatchNorm2d has no first-order law'
    """
    for layer in (*net.before, *(layer for stage in net.stages for layer in stage.after)):
        if not layer.kind.first_order:
            return f"{type(layer.module).__name__} has no first-order law"
    if not all(_has_field_rule(layer) for layer in net.stages[-1].after):
        return "a module after the last weight layer, such as softmax, is not elementwise"
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
    if any(has_nonzero_mean(moments_of(moments, stage.name)) for stage in net.stages):
        return "weights have a non-zero mean"
    return None


def _has_field_rule(layer: NamedLayer) -> bool:
    try:
        layer.field()
    except UnpredictableLayer:
        return False
    return True


def _reads_linearly(net: ParsedNetwork) -> bool:
    """Return True if the modules after the last weight layer are linear."""
    steps = [layer.field() for layer in net.stages[-1].after]
    return all(step is None or (isinstance(step, Mixing) and step.linear) for step in steps)


def has_nonzero_mean(layer: LayerMoments) -> bool:
    """Return True if the mean of a layer's weights is not 0."""
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
    layer, by a function f that depends on the modules between them and on the next layer's bias.
    The first-order law replaces f by its tangent. This function computes the variance of f(t) for
    normal t instead, and adds the layer's own contribution: the part of its first-order variance
    that does not come from the layer before. (2) The relative error of a first-order law in 1 / C
    is of order 1 / C, with C the number of channels; it is taken as 1 / (2 C) of the narrowest
    layer. The last layer does not count if the modules after it are linear.

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
    stages = net.stages[:-1] if _reads_linearly(net) else net.stages
    channels = [WeightShape.of(layers[stage.name]).out_features for stage in stages]
    return largest + 1 / (2 * min(channels, default=np.inf))


def _log_output_m2(stage: Stage, m2: np.ndarray) -> np.ndarray:
    var = torch.as_tensor(m2)
    return np.asarray(unit_moments(stage.after, torch.zeros_like(var), var).m2.log())
