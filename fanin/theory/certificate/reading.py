"""Predictions for a certificate: of a sequence of modules, or of a graph.

This is the one place that distinguishes the two. `certify` gets an object with the same attributes
for both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial

import pandas as pd
from jaxtyping import Float
from torch import Tensor, nn

from fanin.probes.measure import Tracer
from fanin.probes.trace import trace
from fanin.theory.certificate.assemble import make_records, number_layers
from fanin.theory.certificate.graph import Measured, graph_joint_rows, make_graph_records
from fanin.theory.certificate.graph_restart import RestartedRows, predict_restarted
from fanin.theory.certificate.joint import joint_rows
from fanin.theory.certificate.record import LayerCertificate
from fanin.theory.certificate.segments import THEORY, predict_segments
from fanin.theory.certificate.weights import WeightMoments
from fanin.theory.graph.network import GRAPH_THEORIES, GraphNetwork, parse_graph
from fanin.theory.layer_kind import LayerKind, UnpredictableLayer
from fanin.theory.network import has_flat_weights
from fanin.theory.predict import predict_moments, reads_graph


@dataclass(frozen=True)
class NetworkPrediction:
    """Predictions of a network.

    Attributes
    ----------
    frame
        Rows of the table `predictions`, with the column `basis`.
    make_records
        Function that returns the record of every layer, given the measured draws.
    tracer
        Function that records the layers of a drawn network.
    is_graph
        True if the network was read as a graph.
    unpredicted
        Reason for each layer without a formula, by layer name.
    notes
        What is not predicted, in sentences.
    """

    frame: pd.DataFrame
    make_records: Callable[[Measured], tuple[LayerCertificate, ...]]
    tracer: Tracer
    is_graph: bool
    unpredicted: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def predict_network(
    model: nn.Module,
    weights: WeightMoments,
    images: Float[Tensor, "image ..."],
    theories: Sequence[str],
    seed: int,
    *,
    restart: bool = False,
    joint: bool | None = None,
    layer_kinds: Sequence[LayerKind] = (),
) -> NetworkPrediction:
    """Predict a network; the arguments are those of `certify`.

    With `restart`, segments of a sequence are predicted only if its graph cannot be.
    """
    shape = tuple(images.shape[1:])
    if reads_graph(model, shape, theories, layer_kinds):
        for restarts in _graph_restarts(model, shape, restart):
            try:
                return _predict_graph(model, weights, images, theories, seed, joint, restarts)
            except UnpredictableLayer:
                if not (restart and isinstance(model, nn.Sequential)):
                    raise
    segments = predict_segments(model, weights, images, theories, seed, restart, layer_kinds)
    joint_frame = pd.DataFrame()
    if "field" in theories:
        joint_frame = joint_rows(segments, weights, seed, joint)
    frame = number_layers(model, segments, joint_frame)
    return NetworkPrediction(
        frame,
        partial(make_records, model, segments, frame, weights),
        trace,
        is_graph=False,
        unpredicted={s.restarted_at: s.reason for s in segments if s.restarted_at is not None},
    )


def _graph_restarts(model: nn.Module, shape: tuple[int, ...], restart: bool) -> tuple[bool, ...]:
    """Return the values of `restart` with which to read a graph, in order.

    If a layer of a sequence has no formula, segments have predictions of all theories. But those of
    blocks with weights have no rows for these weights.
    """
    if not (restart and isinstance(model, nn.Sequential)):
        return (restart,)
    return (False,) if has_flat_weights(model, shape) else (False, True)


def _predict_graph(
    model: nn.Module,
    weights: WeightMoments,
    images: Tensor,
    theories: Sequence[str],
    seed: int,
    joint: bool | None,
    restart: bool,
) -> NetworkPrediction:
    used = tuple(theory for theory in theories if theory in GRAPH_THEORIES)
    if restart:
        network = parse_graph(model, weights.moments, images, restart=True)
        if network.plan.measured:
            return _restarted(network, weights, used, seed, theories)
    read_graph = cache(partial(parse_graph, model, weights.moments, images))
    frame = predict_moments(model, weights.moments, images, used, seed, read_graph=read_graph)
    network = read_graph()
    numbers = {row.name: number for number, row in enumerate(network.rows, start=1)}
    frame = frame.assign(layer=frame.layer_name.map(numbers))
    if "field" in used:
        frame = pd.concat([frame, graph_joint_rows(network, seed, joint)], ignore_index=True)
    frame = frame.assign(basis=THEORY)
    return NetworkPrediction(
        frame,
        partial(make_graph_records, network, frame, weights),
        network.tracer,
        is_graph=True,
        notes=_graph_notes([theory for theory in theories if theory not in used]),
    )


def _restarted(
    network: GraphNetwork,
    weights: WeightMoments,
    used: Sequence[str],
    seed: int,
    theories: Sequence[str],
) -> NetworkPrediction:
    frame = predict_restarted(network, weights, used, seed)
    numbers = {row.name: number for number, row in enumerate(network.rows, start=1)}
    frame = frame.assign(layer=frame.layer_name.map(numbers))
    return NetworkPrediction(
        frame,
        partial(make_graph_records, network, frame, weights),
        network.tracer,
        is_graph=True,
        unpredicted=RestartedRows.of(network).reasons,
        notes=_graph_notes([theory for theory in theories if theory not in used]),
    )


def _graph_notes(unused: Sequence[str]) -> tuple[str, ...]:
    note = (
        "The model is no sequence of layers with a formula, so it was read as a graph. Not"
        " available for graphs: "
    )
    missing = ["how deviations grow with depth", "depth scales", "intervals by theory"]
    if unused:
        missing.insert(0, f"theories {' and '.join(unused)}")
    return (f"{note}{', '.join(missing)}.",)
