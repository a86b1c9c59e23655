"""From predictions of segments to a certificate's records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import nan

import pandas as pd
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from fanin.inits.weight_shape import WeightShape
from fanin.theory.certificate.derived import depth_of, overflow_chances
from fanin.theory.certificate.networks import coded_name, original_name, sequence
from fanin.theory.certificate.record import LayerCertificate, Predicted
from fanin.theory.certificate.segments import Segment
from fanin.theory.certificate.sensitivity import log_sensitivity
from fanin.theory.certificate.weights import Weights
from fanin.theory.moments import LayerMoments
from fanin.theory.rungs import RUNGS
from fanin.theory.walk import Stage, walk

Predictions = Mapping[str, Mapping[str, Predicted]]


def finest(frame: pd.DataFrame) -> Predictions:
    """By layer and quantity, what the finest rung says of the mean over the images."""
    rows = frame[frame.image == -1]
    # A signed mean has no law of its own at finite width; the field's is not sampled.
    rows = rows[~((rows.quantity == "preact_mean") & (rows.rung == "finite"))]
    order = rows.rung.map({rung: place for place, rung in enumerate(RUNGS)})
    found: dict[str, dict[str, Predicted]] = {}
    for row in rows.iloc[order.argsort(kind="stable")].itertuples():
        found.setdefault(row.layer_name, {})[row.quantity] = Predicted(
            float(row.value), float(row.log_sd), float(row.sampling_se), str(row.rung)
        )
    return found


def by_rung(frame: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """By layer, rung and quantity, the mean over the images."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in frame[frame.image == -1].itertuples():
        rung = found.setdefault(row.layer_name, {}).setdefault(row.rung, {})
        rung[row.quantity] = float(row.value)
    return found


def numbered(model: nn.Module, segments: Sequence[Segment], joint: pd.DataFrame) -> pd.DataFrame:
    """All segments' rows, layers numbered as the probe numbers them: every one that has weights."""
    names = [name for name, m in model.named_modules() if isinstance(m, nn.Linear | _ConvNd)]
    place = {name: number for number, name in enumerate(names, start=1)}
    frame = pd.concat([*(segment.frame for segment in segments), joint], ignore_index=True)
    return frame.assign(layer=frame.layer_name.map(place))


def layer_records(
    model: nn.Module,
    segments: Sequence[Segment],
    frame: pd.DataFrame,
    weights: Weights,
    measured: Mapping[str, Mapping[str, tuple[float, float]]],
) -> tuple[LayerCertificate, ...]:
    """A record per predicted weight layer, without what is derived from several numbers."""
    index = dict(zip(frame.layer_name, frame.layer, strict=True))
    predicted, rungs = finest(frame), by_rung(frame)
    modules = dict(model.named_modules())
    coded = {coded_name(name): known for name, known in weights.moments.items()}
    records = []
    for segment in segments:
        for stage in stages(segment):
            name = original_name(stage.name)
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
                    rungs=rungs[name],
                    basis=segment.basis,
                    moments=weights.source,
                    has_centred_weights=_centred(weights.moments[name]),
                    restarted_at=segment.restarted_at,
                    overflow=overflow_chances(numbers, channels, stage.positions, images),
                    log_sensitivity=_sensitivity(stage, numbers),
                    depth=depth_of(stage, coded, numbers["preact_m2"].value),
                    measured=measured.get(name, {}),
                )
            )
    return tuple(records)


def with_numbers(
    layers: Sequence[LayerCertificate], frame: pd.DataFrame
) -> tuple[LayerCertificate, ...]:
    """The records with what the frame holds by now."""
    predicted, rungs = finest(frame), by_rung(frame)
    return tuple(
        replace(layer, predicted=predicted[layer.name], rungs=rungs[layer.name]) for layer in layers
    )


def stages(segment: Segment) -> tuple[Stage, ...]:
    """The weight layers of a segment; their names are coded."""
    net: nn.Module = sequence(segment.parts)
    return walk(net, tuple(segment.inputs[0].shape[1:])).stages


def _centred(moments: LayerMoments) -> bool:
    return not bool(torch.as_tensor(moments.weight.mean).any())


def _sensitivity(stage: Stage, numbers: Mapping[str, Predicted]) -> float:
    mean, var = numbers.get("preact_mean"), numbers.get("preact_var")
    if mean is None or var is None or not any(True for _ in stage.after):
        return nan
    return log_sensitivity(stage.after, mean.value, var.value)
