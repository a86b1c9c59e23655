"""Gains that keep a graph's second moments constant, and scales of its residual branches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from fanin.theory.graph.branches import find_branches
from fanin.theory.graph.depthwise import Depthwise
from fanin.theory.graph.feature_map import FeatureMap
from fanin.theory.graph.network import GraphNetwork
from fanin.theory.graph.operations import Fields, Weights
from fanin.theory.graph.propagate import forward_step

REPEATS = 2  # independent samplings; their gains are averaged
Solve = Callable[[str, tuple[float, float, float], float], float]
"""Function of a layer's name, coefficients (a, b, c) and target that solves a g^2 + b g + c."""


def forward_gains(
    network: GraphNetwork, target: float, seed: int, solve: Solve
) -> dict[str, float]:
    """Return the gain of each weight layer with which E[y^2] is its target, in forward order.

    The target of the last weight layers of n residual branches is `target` / n. Layers whose
    weights are all 0, such as those of a zero-init, keep a gain of 1.

    Parameters
    ----------
    network
        The network.
    target
        E[y^2] of the other layers, as a mean over the images.
    seed
        Seed of the theory's own sampling.
    solve
        Function that solves for a gain.
    """
    branches = find_branches(network.plan)
    at_end = {name for branch in branches for name in branch.last}
    targets = {
        stage.name: target / len(branches) if stage.name in at_end else target
        for stage in network.stages
    }
    logs = [_log_gains(network, targets, (seed, repeat), solve) for repeat in range(REPEATS)]
    return {name: float(np.exp(np.mean([log[name] for log in logs]))) for name in logs[0]}


def _log_gains(
    network: GraphNetwork, targets: Mapping[str, float], key: tuple[int, int], solve: Solve
) -> dict[str, float]:
    plan, images = network.plan, network.images
    parts = [images] if plan.joint else list(images.split(1))
    fields = [Fields(plan.samples, key) for _ in parts]
    values: list[list[FeatureMap]] = [[] for _ in parts]
    logs: dict[str, float] = {}
    with torch.no_grad():
        for step in plan.steps:
            if isinstance(step.operation, Weights | Depthwise):
                layer = step.operation.layer
                inputs = [of_part[step.inputs[0]] for of_part in values]
                gain = _gain(step.operation, inputs, fields, targets, solve)
                logs[layer.name] = float(np.log(gain))
                scaled = replace(layer, weights=layer.weights.scaled(gain))
                step = replace(step, operation=replace(step.operation, layer=scaled))
            for x, of_part, source in zip(parts, values, fields, strict=True):
                of_part.append(forward_step(step, of_part, x, source))
    return logs


def _gain(
    operation: Weights | Depthwise,
    inputs: Sequence[FeatureMap],
    fields: Sequence[Fields],
    targets: Mapping[str, float],
    solve: Solve,
) -> float:
    layer, weights = operation.layer, operation.layer.weights
    if not bool(torch.as_tensor(weights.var).any()):
        return 1.0
    outputs = [operation.forward([x], source) for x, source in zip(inputs, fields, strict=True)]
    m2 = float(torch.cat([y.m2 for y in outputs]).mean())
    bias_m2 = weights.bias_var + weights.bias_mean**2
    return solve(layer.name, (m2 - bias_m2, 0.0, bias_m2), targets[layer.name])


def scale_norms(network: GraphNetwork, model: nn.Module, target: float) -> dict[str, float]:
    """Set the scales of the normalizations that end residual branches, in place.

    The branches then add `target` to the second moment of the stream together. Returns the scales
    by module path. Those that are all 0 (zero-init) do not change.
    """
    branches = find_branches(network.plan)
    scales = {}
    for path in sorted({path for branch in branches for path in branch.norms}):
        weight = getattr(model.get_submodule(path), "weight", None)
        if isinstance(weight, Tensor) and bool(weight.any()):
            scales[path] = (target / len(branches)) ** 0.5
            with torch.no_grad():
                weight.fill_(scales[path])
    return scales
