"""From predictions of segments to a certificate's records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf, isfinite, log, nan

import pandas as pd
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from fanin.inits.weight_shape import WeightShape
from fanin.theory.certificate.record import DepthScales, LayerCertificate, PredictedValue
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
from fanin.theory.network import Stage, parse_network
from fanin.theory.overflow import DTYPES, first_overflow, overflow_probability
from fanin.theory.predict import THEORIES

Predictions = Mapping[str, Mapping[str, PredictedValue]]


def finest_predictions(frame: pd.DataFrame) -> Predictions:
    """By layer and quantity, what the finest_predictions theory says of the mean over the images."""
    rows = frame[frame.image == -1]
    # A signed mean has no law of its own at finite width; the field's is not sampled.
    rows = rows[~((rows.quantity == "preact_mean") & (rows.theory == "finite_width"))]
    order = rows.theory.map({theory: place for place, theory in enumerate(THEORIES)})
    found: dict[str, dict[str, PredictedValue]] = {}
    for row in rows.iloc[order.argsort(kind="stable")].itertuples():
        found.setdefault(row.layer_name, {})[row.quantity] = PredictedValue(
            float(row.value), float(row.log_sd), float(row.sampling_se), str(row.theory)
        )
    return found


def values_by_theory(frame: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """By layer, theory and quantity, the mean over the images."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in frame[frame.image == -1].itertuples():
        theory = found.setdefault(row.layer_name, {}).setdefault(row.theory, {})
        theory[row.quantity] = float(row.value)
    return found


def number_layers(
    model: nn.Module, segments: Sequence[Segment], joint: pd.DataFrame
) -> pd.DataFrame:
    """All segments' rows, layers number_layers as the probe numbers them: every one that has weights."""
    names = [name for name, m in model.named_modules() if isinstance(m, nn.Linear | _ConvNd)]
    place = {name: number for number, name in enumerate(names, start=1)}
    frame = pd.concat([*(segment.frame for segment in segments), joint], ignore_index=True)
    return frame.assign(layer=frame.layer_name.map(place))


def make_records(
    model: nn.Module,
    segments: Sequence[Segment],
    frame: pd.DataFrame,
    weights: WeightMoments,
    measured: Mapping[str, Mapping[str, tuple[float, float]]],
) -> tuple[LayerCertificate, ...]:
    """A record per predicted weight layer, without what is derived from several numbers."""
    index = dict(zip(frame.layer_name, frame.layer, strict=True))
    predicted, theories = finest_predictions(frame), values_by_theory(frame)
    modules = dict(model.named_modules())
    coded = {encode_name(name): known for name, known in weights.moments.items()}
    records = []
    for segment in segments:
        for stage in stages(segment):
            name = decode_name(stage.name)
            numbers = predicted[name]
            channels = WeightShape.of(modules[name]).out_features
            images = len(segment.inputs[0])
            records.append(
                LayerCertificate(
                    layer=int(index[name]),
                    name=name,
                    fan_in=stage.fan_in,
                    fan_out=stage.fan_out,
                    channels=channels,
                    positions=stage.positions,
                    predicted=numbers,
                    theories=theories[name],
                    basis=segment.basis,
                    moments=weights.source,
                    has_zero_mean_weights=_centred(weights.moments[name]),
                    restarted_at=segment.restarted_at,
                    overflow=overflow_by_dtype(numbers, channels, stage.positions, images),
                    log_sensitivity=_sensitivity(stage, numbers),
                    depth=layer_depth_scales(stage, coded, numbers["preact_m2"].value),
                    measured=measured.get(name, {}),
                )
            )
    return tuple(records)


def update_records(
    layers: Sequence[LayerCertificate], frame: pd.DataFrame
) -> tuple[LayerCertificate, ...]:
    """The records with what the frame holds by now."""
    predicted, theories = finest_predictions(frame), values_by_theory(frame)
    return tuple(
        replace(layer, predicted=predicted[layer.name], theories=theories[layer.name])
        for layer in layers
    )


def stages(segment: Segment) -> tuple[Stage, ...]:
    """The weight layers of a segment; their names are coded."""
    net: nn.Module = build_sequential(segment.parts)
    return parse_network(net, tuple(segment.inputs[0].shape[1:]), segment.layer_kinds).stages


def _centred(moments: LayerMoments) -> bool:
    return not bool(torch.as_tensor(moments.weight.mean).any())


def _sensitivity(stage: Stage, numbers: Mapping[str, PredictedValue]) -> float:
    mean, var = numbers.get("preact_mean"), numbers.get("preact_var")
    if mean is None or var is None or not any(True for _ in stage.after):
        return nan
    return log_sensitivity(stage.after, mean.value, var.value)


def overflow_by_dtype(
    numbers: Mapping[str, PredictedValue], units: int, positions: int, images: int
) -> dict[str, float]:
    """By dtype, the chance that one of a layer's pre-activations is too large for it.

    Parameters
    ----------
    numbers
        A layer's, by quantity: `preact_m2`, and `preact_var` where it is known.
    units, positions, images
        How many pre-activations there are is their product.
    """
    found = numbers.get("preact_m2")
    if found is None:
        return {}
    value = found.value
    level = nan if value < 0 else -inf if value == 0 else log(value) if isfinite(value) else value
    spread = found.log_sd if isfinite(found.log_sd) else 0.0
    between = variance_share(numbers, positions)
    count = units * positions * images
    return {
        str(dtype).removeprefix("torch."): overflow_probability(
            level, count, dtype, spread, variance_share=between
        )
        for dtype in DTYPES
    }


def variance_share(numbers: Mapping[str, PredictedValue], positions: int) -> float:
    """Of E[y^2], the share that is not a mean common to units and positions; 1 where unknown.

    Mean-field theory takes the positions of a map as alike, and knows nothing of their share.
    """
    m2, var = numbers.get("preact_m2"), numbers.get("preact_var")
    if m2 is None or var is None or not (m2.value > 0 and isfinite(m2.value)):
        return 1.0
    if positions > 1 and var.theory == "mean_field":
        return 1.0
    share = var.value / m2.value
    return min(max(share, 0.0), 1.0) if isfinite(share) else 1.0


def overflows_at(layers: Sequence[LayerCertificate]) -> dict[str, str | None]:
    """By dtype, the first layer where overflow is likelier than not."""
    dtypes = layers[0].overflow if layers else {}
    first = {dtype: first_overflow([each.overflow[dtype] for each in layers]) for dtype in dtypes}
    return {
        dtype: None if place is None else layers[place - 1].name for dtype, place in first.items()
    }


def layer_depth_scales(stage: Stage, moments: Mapping[str, LayerMoments], q: float) -> DepthScales:
    """Depth scales of a deep dense net of layers like this one, its weights' mean left out.

    Padding and pooling are left out too: they are statements about the activation and the
    variances at hand.
    """
    weights = scalar_moments(moments, [stage.name])[stage.name]
    sigma_w2, sigma_b2 = stage.fan_in * weights.weight_var, weights.bias_var
    function = _activation(stage)
    if function is None or not (isfinite(q) and q > 0):
        return DepthScales(sigma_w2, sigma_b2)
    found = depth_scales(function, sigma_w2, sigma_b2, start=min(max(q, 1e-19), 1e19))
    try:
        critical = critical_weight_var(function, sigma_b2)
    except ValueError:
        critical = nan
    return DepthScales(
        *(sigma_w2, sigma_b2, found.chi_1, found.q_star, found.xi_q, found.xi_c, found.phase),
        critical_sigma_w2=critical,
    )


def _activation(stage: Stage) -> Function | None:
    """The elementwise modules that follow, as one function; None where there is none."""
    layers = [layer for layer in stage.after if layer.kind.scalar is not unchanged]
    found = [function for layer in layers if (function := elementwise(layer.module))]
    if not found:
        return None

    def composed(x: torch.Tensor) -> torch.Tensor:
        for function in found:
            x = function(x)
        return x

    return composed


STEP = 1e-3  # of log q: the second difference is below 1e-6, quadrature's noise below 1e-7


def log_sensitivity(after: Sequence[NamedLayer], mean: float, var: float) -> float:
    """D log E[x^2] / d log q of what follows a weight layer, by a symmetric difference.

    1 for rectifiers, below 1 for saturating activations, above 1 for GELU and SiLU at He's gain:
    there a relative error, of any origin, is amplified layer by layer (derivations.md, 2.3).

    Parameters
    ----------
    after
        The modules up to the next weight layer; pooling counts for nothing here.
    mean, var
        Of the pre-activation.

    Returns
    -------
    float
        NaN where the moments are 0 or not finite, or a module has no formula.

    Examples
    --------
    >>> from torch import nn
    >>> round(log_sensitivity([NamedLayer.of("act", nn.ReLU())], 0.0, 3.0), 6)
    1.0
    >>> log_sensitivity([NamedLayer.of("act", nn.GELU())], 0.0, 0.1) > 1.1
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
