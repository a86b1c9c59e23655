"""Layer records and joint quantities of a network that is read as a graph."""

from __future__ import annotations

from collections.abc import Mapping
from math import nan

import pandas as pd
import torch

from fanin.inits.weight_shape import WeightShape
from fanin.progress import set_phase
from fanin.theory.certificate.assemble import (
    finest_predictions,
    overflow_by_dtype,
    values_by_theory,
)
from fanin.theory.certificate.graph_restart import RestartedRows
from fanin.theory.certificate.joint import MAX_CHEAP_POINTS
from fanin.theory.certificate.record import LayerCertificate, LayerDepthScales
from fanin.theory.certificate.weights import WeightMoments
from fanin.theory.cost import JOINT_PHASE
from fanin.theory.graph.network import GraphNetwork
from fanin.theory.graph.rows import GraphRow
from fanin.theory.moments import scalar_moments

Measured = Mapping[str, Mapping[str, tuple[float, float]]]


def make_graph_records(
    network: GraphNetwork, frame: pd.DataFrame, weights: WeightMoments, measured: Measured
) -> tuple[LayerCertificate, ...]:
    """Create the record of every row of a graph."""
    predicted, theories = finest_predictions(frame, keeps_field=True), values_by_theory(frame)
    modules = dict(network.model.named_modules())
    rows, records = RestartedRows.of(network), []
    for number, row in enumerate(network.rows, start=1):
        values, path = predicted[row.name], row.path or row.weight_layer
        shape = WeightShape.of(modules[row.weight_layer]) if row.weight_layer else None
        records.append(
            LayerCertificate(
                layer=number,
                name=row.name,
                fan_in=0 if shape is None else shape.fan_in,
                outputs_per_input=0 if shape is None else shape.outputs_per_input,
                channels=row.channels,
                positions=row.positions,
                predicted=values,
                theories=theories[row.name],
                basis=rows.basis(row.name),
                moments=weights.source,
                has_zero_mean_weights=_has_zero_mean(row, weights),
                restarted_at=rows.restarted_at.get(row.name),
                overflow=overflow_by_dtype(
                    values, row.channels, row.positions, len(network.images)
                ),
                depth=_variances(row, shape, weights),
                measured=measured.get(row.name, {}),
                module=row.module,
                output_shape=row.output_shape,
                parameters=sum(p.numel() for p in modules[path].parameters()) if path else 0,
                activation=row.activation,
                bias_m2=_bias_m2(row, weights),
                input_activation=row.input_activation,
                in_branch=row.in_branch,
            )
        )
    return tuple(records)


def graph_joint_rows(network: GraphNetwork, seed: int, joint: bool | None) -> pd.DataFrame:
    """Return correlations between images and fractions of dead units as rows of `predictions`.

    Parameters
    ----------
    network
        The network.
    seed
        Seed of the theory's own sampling.
    joint
        False returns no rows. None does so if a tensor has more than `MAX_CHEAP_POINTS` positions
        on all images.
    """
    points = len(network.images) * max(row.positions for row in network.rows)
    if not (points <= MAX_CHEAP_POINTS if joint is None else joint):
        return pd.DataFrame()
    set_phase(JOINT_PHASE)
    constants = {"theory": "field", "method": "sampled", "log_sd": nan, "sampling_se": 0.0}
    constants |= {"zero_probability": nan, "log_skew": nan}
    return pd.DataFrame(
        [
            {"image": -1, "layer": number, "layer_name": name, "quantity": quantity, "value": value}
            | constants
            for number, (name, values) in enumerate(network.predict_joint(seed).items(), start=1)
            for quantity, value in zip(("input_correlation", "dead_fraction"), values, strict=True)
        ]
    )


def _variances(
    row: GraphRow, shape: WeightShape | None, weights: WeightMoments
) -> LayerDepthScales | None:
    if shape is None:
        return None
    moments = scalar_moments(weights.moments, [row.weight_layer])[row.weight_layer]
    return LayerDepthScales(shape.fan_in * moments.weight_var, moments.bias_var)


def _has_zero_mean(row: GraphRow, weights: WeightMoments) -> bool:
    if not row.weight_layer:
        return True
    return not bool(torch.as_tensor(weights.moments[row.weight_layer].weight.mean).any())


def _bias_m2(row: GraphRow, weights: WeightMoments) -> float:
    if not row.weight_layer:
        return 0.0
    moments = scalar_moments(weights.moments, [row.weight_layer])[row.weight_layer]
    return moments.bias_var + moments.bias_mean**2
