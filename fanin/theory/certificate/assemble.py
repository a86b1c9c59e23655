"""Layer records of a certificate, from the predictions of a network's segments (`segments.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf, isfinite, log, nan

import pandas as pd
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from fanin.inits.weight_shape import WeightShape
from fanin.progress import set_phase
from fanin.theory.certificate.predicted_value import PredictedValue
from fanin.theory.certificate.record import LayerCertificate, LayerDepthScales
from fanin.theory.certificate.segments import Segment
from fanin.theory.certificate.weights import (
    WeightMoments,
    build_sequential,
    decode_name,
    encode_name,
)
from fanin.theory.depth_scales import critical_weight_var, depth_scales
from fanin.theory.elementwise import Function, elementwise
from fanin.theory.layer_kind import UnpredictableLayer
from fanin.theory.layers import NamedLayer, unchanged
from fanin.theory.mean_field import unit_moments
from fanin.theory.moments import LayerMoments, scalar_moments
from fanin.theory.network import Stage, describe_module, parse_network
from fanin.theory.overflow import DTYPES, first_overflow, overflow_probability
from fanin.theory.predict import THEORIES

Predictions = Mapping[str, Mapping[str, PredictedValue]]


def finest_predictions(frame: pd.DataFrame, *, keeps_field: bool = False) -> Predictions:
    """Return the mean over images by layer and quantity, from the last theory that predicts it.

    With `keeps_field`, drawn networks only give the spread of a value of theory `field`.
    """
    rows = frame[frame.image == -1]
    # The `preact_mean` of `field` is exact; that of `finite_width` is a mean over samples.
    rows = rows[~((rows.quantity == "preact_mean") & (rows.theory == "finite_width"))]
    order = rows.theory.map({theory: index for index, theory in enumerate(THEORIES)})
    predictions: dict[str, dict[str, PredictedValue]] = {}
    for row in rows.iloc[order.argsort(kind="stable")].itertuples():
        value = PredictedValue(
            float(row.value),
            float(row.log_sd),
            float(row.sampling_se),
            str(row.theory),
            str(row.method),
            float(row.zero_probability),
            float(row.log_skew),
        )
        quantities = predictions.setdefault(row.layer_name, {})
        lower = quantities.get(row.quantity)
        if keeps_field and lower is not None and value.method == "simulated":
            value = replace(lower, spread=value)
        quantities[row.quantity] = value
    return predictions


def values_by_theory(frame: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """Return the mean over images by layer, theory and quantity."""
    values: dict[str, dict[str, dict[str, float]]] = {}
    for row in frame[frame.image == -1].itertuples():
        quantities = values.setdefault(row.layer_name, {}).setdefault(row.theory, {})
        quantities[row.quantity] = float(row.value)
    return values


def number_layers(
    model: nn.Module, segments: Sequence[Segment], joint: pd.DataFrame
) -> pd.DataFrame:
    """Concatenate the rows of all segments and number the layers as the probe does."""
    names = [name for name, m in model.named_modules() if isinstance(m, nn.Linear | _ConvNd)]
    numbers = {name: number for number, name in enumerate(names, start=1)}
    frame = pd.concat([*(segment.frame for segment in segments), joint], ignore_index=True)
    return frame.assign(layer=frame.layer_name.map(numbers))


def make_records(
    model: nn.Module,
    segments: Sequence[Segment],
    frame: pd.DataFrame,
    weights: WeightMoments,
    measured: Mapping[str, Mapping[str, tuple[float, float]]],
    *,
    with_depth_scales: bool = True,
) -> tuple[LayerCertificate, ...]:
    """Create the record of every predicted weight layer.

    Without depth scales, which take up to a second per layer, `depth` has only the variances.
    """
    if with_depth_scales:
        set_phase("depth scales")
    layer_numbers = dict(zip(frame.layer_name, frame.layer, strict=True))
    predicted, theories = finest_predictions(frame), values_by_theory(frame)
    modules = dict(model.named_modules())
    encoded_moments = {encode_name(name): m for name, m in weights.moments.items()}
    records = []
    for segment in segments:
        for stage in segment_stages(segment):
            name = decode_name(stage.name)
            values = predicted[name]
            channels = WeightShape.of(modules[name]).out_features
            images = len(segment.inputs[0])
            records.append(
                LayerCertificate(
                    layer=int(layer_numbers[name]),
                    name=name,
                    fan_in=stage.fan_in,
                    outputs_per_input=stage.outputs_per_input,
                    channels=channels,
                    positions=stage.positions,
                    predicted=values,
                    theories=theories[name],
                    basis=segment.basis,
                    moments=weights.source,
                    has_zero_mean_weights=_has_zero_mean(weights.moments[name]),
                    restarted_at=segment.restarted_at,
                    overflow=overflow_by_dtype(values, channels, stage.positions, images),
                    log_sensitivity=_sensitivity(stage, values),
                    depth=layer_depth_scales(
                        *(stage, encoded_moments, values["preact_m2"].value),
                        only_variances=not with_depth_scales,
                    ),
                    measured=measured.get(name, {}),
                    module=describe_module(modules[name]),
                    output_shape=stage.output_shape,
                    parameters=sum(p.numel() for p in modules[name].parameters()),
                    activation=_activation_name(stage),
                    bias_m2=float(torch.as_tensor(weights.moments[name].bias.second_moment).mean()),
                )
            )
    return tuple(records)


def update_records(
    layers: Sequence[LayerCertificate], frame: pd.DataFrame, *, keeps_field: bool = False
) -> tuple[LayerCertificate, ...]:
    """Return the records with the predictions of an extended frame."""
    predicted = finest_predictions(frame, keeps_field=keeps_field)
    theories = values_by_theory(frame)
    return tuple(
        replace(layer, predicted=predicted[layer.name], theories=theories[layer.name])
        for layer in layers
    )


def segment_stages(segment: Segment) -> tuple[Stage, ...]:
    """Return the weight layers of a segment, with encoded names (see `encode_name`)."""
    net: nn.Module = build_sequential(segment.parts)
    return parse_network(net, tuple(segment.inputs[0].shape[1:]), segment.layer_kinds).stages


def _has_zero_mean(moments: LayerMoments) -> bool:
    return not bool(torch.as_tensor(moments.weight.mean).any())


def _sensitivity(stage: Stage, predicted: Mapping[str, PredictedValue]) -> float:
    mean, var = predicted.get("preact_mean"), predicted.get("preact_var")
    if mean is None or var is None or not any(True for _ in stage.after):
        return nan
    return layer_log_sensitivity(stage.after, mean.value, var.value)


def overflow_by_dtype(
    predicted: Mapping[str, PredictedValue], units: int, positions: int, images: int
) -> dict[str, float]:
    """Return the probability that a pre-activation of a layer overflows, by dtype.

    Parameters
    ----------
    predicted
        Predictions of the layer by quantity: `preact_m2`, and `preact_var` if known.
    units, positions, images
        Their product is the number of pre-activations.
    """
    m2 = predicted.get("preact_m2")
    if m2 is None:
        return {}
    value = m2.value
    log_m2 = nan if value < 0 else -inf if value == 0 else log(value) if isfinite(value) else value
    draws = m2.distribution
    log_sd, log_skew = (x if isfinite(x) else 0.0 for x in (draws.log_sd, draws.log_skew))
    not_zero = 1 - draws.zero_probability if draws.zero_probability < 1 else 1.0
    share = variance_share(predicted, positions)
    arguments = log_m2 - log(not_zero), units * positions * images
    return {
        str(dtype).removeprefix("torch."): not_zero
        * overflow_probability(*arguments, dtype, log_sd, log_skew, variance_share=share)
        for dtype in DTYPES
    }


def variance_share(predicted: Mapping[str, PredictedValue], positions: int) -> float:
    """Return the fraction of E[y^2] that is variance between units and positions; 1 if unknown.

    Theory `mean_field` treats all positions of a map as equal, so it does not know the fraction for
    maps of several positions.
    """
    m2, var = predicted.get("preact_m2"), predicted.get("preact_var")
    if m2 is None or var is None or not (m2.value > 0 and isfinite(m2.value)):
        return 1.0
    if positions > 1 and var.theory == "mean_field":
        return 1.0
    share = var.value / m2.value
    return min(max(share, 0.0), 1.0) if isfinite(share) else 1.0


def overflows_at(layers: Sequence[LayerCertificate]) -> dict[str, str | None]:
    """Return the first layer with an overflow probability above 1/2, by dtype."""
    dtypes = layers[0].overflow if layers else {}
    first = {dtype: first_overflow([layer.overflow[dtype] for layer in layers]) for dtype in dtypes}
    return {
        dtype: None if number is None else layers[number - 1].name
        for dtype, number in first.items()
    }


def layer_depth_scales(
    stage: Stage,
    moments: Mapping[str, LayerMoments],
    q: float,
    *,
    only_variances: bool = False,
) -> LayerDepthScales:
    """Return the depth scales of a deep dense network that repeats this layer.

    They depend on the activation and on the variances of weights and biases only. Padding, pooling
    and the mean of the weights are ignored.
    """
    weights = scalar_moments(moments, [stage.name])[stage.name]
    sigma_w2, sigma_b2 = stage.fan_in * weights.weight_var, weights.bias_var
    function = None if only_variances else _activation(stage)
    if function is None or not (isfinite(q) and q > 0):
        return LayerDepthScales(sigma_w2, sigma_b2)
    scales = depth_scales(function, sigma_w2, sigma_b2, start=min(max(q, 1e-19), 1e19))
    try:
        critical = critical_weight_var(function, sigma_b2)
    except ValueError:
        critical = nan
    return LayerDepthScales(
        *(sigma_w2, sigma_b2, scales.chi_1, scales.q_star, scales.xi_q, scales.xi_c, scales.phase),
        critical_sigma_w2=critical,
    )


def _activation(stage: Stage) -> Function | None:
    """Return the composition of the elementwise modules of a stage; None if there are none."""
    layers = [layer for layer in stage.after if layer.kind.scalar is not unchanged]
    functions = [function for layer in layers if (function := elementwise(layer.module))]
    if not functions:
        return None

    def composed(x: torch.Tensor) -> torch.Tensor:
        for function in functions:
            x = function(x)
        return x

    return composed


def _activation_name(stage: Stage) -> str:
    """Return the type of the first elementwise module of a stage; "" if there is none."""
    names = (
        type(layer.module).__name__
        for layer in stage.after
        if layer.kind.scalar is not unchanged and elementwise(layer.module)
    )
    return next(names, "")


STEP = 1e-3  # of log q; the truncation error is below 1e-6, the quadrature error below 1e-7


def layer_log_sensitivity(after: Sequence[NamedLayer], mean: float, var: float) -> float:
    """Return d log E[x^2] / d log q for the output x of a stage, by a symmetric difference.

    It is 1 for rectifiers, below 1 for saturating activations, and above 1 for GELU and SiLU at
    He's gain. Above 1, relative errors of the second moment grow from layer to layer
    (derivations.md, 2.3).

    Parameters
    ----------
    after
        Modules up to the next weight layer. Pooling is ignored.
    mean, var
        Mean and variance of the pre-activation.

    Returns
    -------
    float
        NaN if the moments are 0 or not finite, or if a module has no formula.

    Examples
    --------
    >>> from torch import nn
    >>> round(layer_log_sensitivity([NamedLayer.of("act", nn.ReLU())], 0.0, 3.0), 6)
    1.0
    >>> layer_log_sensitivity([NamedLayer.of("act", nn.GELU())], 0.0, 0.1) > 1.1
    True
    """
    if not (isfinite(mean) and isfinite(var) and mean**2 + var > 0):
        return nan
    scales = torch.tensor([-STEP, STEP], dtype=torch.float64).exp()
    try:
        low, high = unit_moments(after, mean * scales.sqrt(), var * scales).m2.tolist()
    except UnpredictableLayer:
        return nan
    if not (0 < low < float("inf") and 0 < high < float("inf")):
        return nan
    return (log(high) - log(low)) / (2 * STEP)
