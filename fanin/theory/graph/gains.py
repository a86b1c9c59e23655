"""Gains that keep a graph's second moments constant, and scales of its residual branches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from fanin.graph import Node
from fanin.theory.graph.depthwise import Depthwise
from fanin.theory.graph.feature_map import FeatureMap
from fanin.theory.graph.network import GraphNetwork
from fanin.theory.graph.operations import Add, Fields, Weights
from fanin.theory.graph.plan import NORMALIZATIONS, GraphPlan
from fanin.theory.graph.propagate import Step, images_map
from fanin.theory.graph.rows import weight_path

REPEATS = 2  # independent samplings; their gains are averaged
Solve = Callable[[str, tuple[float, float, float], float], float]
"""Function of a layer's name, coefficients (a, b, c) and target that solves a g^2 + b g + c."""


@dataclass(frozen=True)
class BranchEnds:
    """Last modules of the residual branches of a graph.

    Attributes
    ----------
    weights
        Paths of the weight layers that end a branch.
    norms
        Paths of the normalizations that end a branch.
    n_branches
        Number of branches.
    """

    weights: frozenset[str]
    norms: frozenset[str]
    n_branches: int


def find_branch_ends(plan: GraphPlan) -> BranchEnds:
    """Find the last modules of the residual branches of a graph."""
    ancestors = ancestors_of(plan.steps)
    nodes: dict[int, Node] = {}
    for node, number in plan.step_of.items():
        nodes.setdefault(number, node)  # the first one computes it, others are views
    weights: set[str] = set()
    norms: set[str] = set()
    n_branches = 0
    for branch, other in residual_branches(plan.steps, ancestors):
        ends = list(_ends(plan.steps, nodes, branch, ancestors[other]))
        weights |= {weight_path(node) for node in ends if weight_path(node)}
        norms |= {node.path for node in ends if not weight_path(node) and node.path}
        n_branches += bool(ends)
    return BranchEnds(frozenset(weights), frozenset(norms), n_branches)


def residual_branches(
    steps: Sequence[Step], ancestors: Sequence[frozenset[int]]
) -> Iterator[tuple[int, int]]:
    """Yield the two inputs of each sum: the branch, which has more weight layers, and the other."""
    for step in steps:
        if not isinstance(step.operation, Add):
            continue
        first, second = step.inputs
        own = [
            _count_weights(steps, ancestors[a] - ancestors[b])
            for a, b in ((first, second), (second, first))
        ]
        if own[0] != own[1]:
            yield (first, second) if own[0] > own[1] else (second, first)


def forward_gains(
    network: GraphNetwork, targets: Mapping[str, float], seed: int, solve: Solve
) -> dict[str, float]:
    """Return the gain of each weight layer with which E[y^2] is its target, in forward order.

    Layers whose weights are all 0, such as those of a zero-init, keep a gain of 1.

    Parameters
    ----------
    network
        The network.
    targets
        E[y^2] of each layer, as a mean over the images.
    seed
        Seed of the theory's own sampling.
    solve
        Function that solves for a gain.
    """
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
            operation = step.operation
            if isinstance(operation, Weights | Depthwise):
                layer = operation.layer
                inputs = [of_part[step.inputs[0]] for of_part in values]
                gain = _gain(operation, inputs, fields, targets, solve)
                logs[layer.name] = float(np.log(gain))
                scaled = replace(layer, weights=layer.weights.scaled(gain))
                operation = replace(operation, layer=scaled)
            for x, of_part, source in zip(parts, values, fields, strict=True):
                if operation is None:
                    of_part.append(images_map(x))
                else:
                    of_part.append(operation.forward([of_part[i] for i in step.inputs], source))
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


def ancestors_of(steps: Sequence[Step]) -> list[frozenset[int]]:
    """Return the steps on which each step depends, and the step itself."""
    result: list[frozenset[int]] = []
    for number, step in enumerate(steps):
        result.append(frozenset({number}).union(*(result[i] for i in step.inputs)))
    return result


def _count_weights(steps: Sequence[Step], numbers: frozenset[int]) -> int:
    return sum(isinstance(steps[i].operation, Weights | Depthwise) for i in numbers)


def _ends(
    steps: Sequence[Step], nodes: Mapping[int, Node], start: int, shared: frozenset[int]
) -> Iterator[Node]:
    """Yield the last weight layers or normalizations of a branch, from its output backwards."""
    queue = [start]
    while queue:
        number = queue.pop()
        if number in shared:
            continue
        node = nodes.get(number)
        is_norm = node is not None and node.operation in NORMALIZATIONS
        if node is not None and (is_norm or weight_path(node)):
            yield node
        else:
            queue += steps[number].inputs


def scale_norms(model: nn.Module, norms: frozenset[str], scale: float) -> dict[str, float]:
    """Set the scales of normalizations to a number, in place; return the new scales by path."""
    scales = {}
    for path in sorted(norms):
        weight = getattr(model.get_submodule(path), "weight", None)
        if isinstance(weight, Tensor) and bool(weight.any()):  # not a zero-init
            with torch.no_grad():
                weight.fill_(scale)
            scales[path] = scale
    return scales
