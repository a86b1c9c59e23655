"""Gains that keep the cotangents of a graph constant from layer to layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from fanin.graph import Node
from fanin.theory.graph.branches import find_branches
from fanin.theory.graph.depthwise import Depthwise
from fanin.theory.graph.feature_map import FeatureMap
from fanin.theory.graph.gains import REPEATS
from fanin.theory.graph.network import GraphNetwork
from fanin.theory.graph.operations import (
    Fields,
    NormalizeChannels,
    Operation,
    PerChannel,
    Weights,
    sum_cotangents,
)
from fanin.theory.graph.over_channels import WeightLayer
from fanin.theory.graph.plan import NORMALIZATIONS
from fanin.theory.graph.propagate import Step, forward, output_cotangent

MAX_ITERATIONS = 30
TOLERANCE = 1e-4  # of the logarithm of a gain; far below the variation between draws


def backward_gains(
    network: GraphNetwork, start: Mapping[str, float], seed: int
) -> dict[str, float]:
    """Return gains with which the cotangent that each layer sends back has its target E[d^2].

    It is that at the tensor from which the layer's input is computed by activations, pools and
    normalizations: another layer's output, a sum or a concatenation. The target is 1 / n for the
    first layers of n residual branches, otherwise 1, as at the output. What a layer before a
    normalization sends does not depend on its gain, so E[d^2] of its own output is 1 instead.
    Layers that read the images, or whose cotangent is 0 (after a layer of zeros), keep their gain.

    Parameters
    ----------
    network
        The network.
    start
        Gains of the first iteration.
    seed
        Seed of the theory's own sampling.
    """
    normalized = _normalized_layers(network)
    branches = find_branches(network.plan)
    at_start = {name for branch in branches for name in branch.first}
    targets = {
        stage.name: 1 / len(branches) if stage.name in at_start else 1.0 for stage in network.stages
    }
    logs = []
    for repeat in range(REPEATS):
        gains = dict(start)
        for _ in range(MAX_ITERATIONS):  # slopes and statistics change with the gains
            new = _backward_pass(network, normalized, targets, gains, (seed, repeat))
            change = max(abs(np.log(new[name] / gains[name])) for name in gains)
            gains = new
            if change < TOLERANCE:
                break
        logs.append({name: np.log(gain) for name, gain in gains.items()})
    return {name: float(np.exp(np.mean([log[name] for log in logs]))) for name in start}


@torch.no_grad()
def _backward_pass(
    network: GraphNetwork,
    normalized: frozenset[str],
    targets: Mapping[str, float],
    gains: Mapping[str, float],
    key: tuple[int, int],
) -> dict[str, float]:
    """Return the gains that the layers need if the forward pass has the given ones."""
    plan, images = network.plan, network.images
    parts = [images] if plan.joint else list(images.split(1))
    fields = [Fields(plan.samples, key) for _ in parts]
    steps = [replace(step, operation=_scaled(step.operation, gains)) for step in plan.steps]
    values = [forward(steps, x, source) for x, source in zip(parts, fields, strict=True)]
    received: list[list[FeatureMap | None]] = [[None] * len(steps) for _ in parts]
    for of_part, cotangents, source in zip(values, received, fields, strict=True):
        cotangents[-1] = output_cotangent(of_part[-1], source)
    result = dict(gains)
    for number in range(len(steps) - 1, -1, -1):
        layer = _layer(steps[number].operation)
        if layer is not None and layer.name in normalized:
            own = [of_part[number] for of_part in received]
            m2 = _mean([cotangent.m2 for cotangent in own if cotangent is not None])
            result[layer.name] *= m2**0.5 if m2 else 1.0  # E[d^2] is inverse to the squared gain
        elif layer is not None:
            sent = _sent_m2(steps, number, values, received, fields)
            if sent:
                factor = (targets[layer.name] / sent) ** 0.5
                result[layer.name] *= factor
                operation = _scaled(steps[number].operation, {layer.name: factor})
                steps[number] = replace(steps[number], operation=operation)
        for of_part, cotangents, source in zip(values, received, fields, strict=True):
            for i, passed in _pass_back(steps, number, of_part, cotangents[number], source):
                cotangents[i] = sum_cotangents(cotangents[i], passed)
            cotangents[number] = None
    return result


def _pass_back(
    steps: Sequence[Step],
    number: int,
    values: Sequence[FeatureMap],
    cotangent: FeatureMap | None,
    fields: Fields,
) -> Iterator[tuple[int, FeatureMap]]:
    """Yield the inputs of a step that depend on random weights, and their cotangents."""
    step = steps[number]
    if step.operation is None or cotangent is None:
        return
    inputs = [values[i] for i in step.inputs]
    passed = step.operation.backward(inputs, values[number], cotangent, fields)
    for i, x, result in zip(step.inputs, inputs, passed, strict=True):
        if result is not None and not x.is_known:
            yield i, result


def _sent_m2(
    steps: Sequence[Step],
    number: int,
    values: Sequence[Sequence[FeatureMap]],
    received: Sequence[Sequence[FeatureMap | None]],
    fields: Sequence[Fields],
) -> float:
    """Return E[d^2] that a layer sends to the tensor before it; 0 if it sends nothing.

    It uses fields of its own, because later sums still choose the samples of the layer's field.
    """
    moments = []
    for of_part, cotangents, source in zip(values, received, fields, strict=True):
        sent = list(_pass_back(steps, number, of_part, cotangents[number], source))
        while sent and _treats_each_channel(steps[sent[0][0]]):
            position, cotangent = sent[0]
            sent = list(_pass_back(steps, position, of_part, cotangent, source))
        moments += [cotangent.m2 for _, cotangent in sent]
    return _mean(moments)


def _mean(moments: Sequence[torch.Tensor]) -> float:
    return float(torch.cat(list(moments)).mean()) if moments else 0.0


def _normalized_layers(network: GraphNetwork) -> frozenset[str]:
    """Return the weight layers that only normalizations by their own statistics read."""
    nodes = network.plan.graph.nodes
    result = set()
    for row in network.rows:
        readers = [node for node in nodes if nodes[row.node] in node.inputs]
        if row.weight_layer and readers and all(map(_divides_by_statistics, readers)):
            result.add(row.weight_layer)
    return frozenset(result)


def _divides_by_statistics(node: Node) -> bool:
    if node.operation in ("batch_norm", "instance_norm"):
        name = "training" if node.operation == "batch_norm" else "use_input_stats"
        return bool(node.arguments[name])
    return node.operation in NORMALIZATIONS


def _treats_each_channel(step: Step) -> bool:
    return isinstance(step.operation, PerChannel | NormalizeChannels)


def _layer(operation: Operation | None) -> WeightLayer | None:
    return operation.layer if isinstance(operation, Weights | Depthwise) else None


def _scaled(operation: Operation | None, gains: Mapping[str, float]) -> Operation | None:
    if not isinstance(operation, Weights | Depthwise):
        return operation
    layer = operation.layer
    weights = layer.weights.scaled(gains.get(layer.name, 1.0))
    return replace(operation, layer=replace(layer, weights=weights))
