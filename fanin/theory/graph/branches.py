"""Residual branches of a graph: their first and last weight layers and normalizations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fanin.graph import Node
from fanin.theory.graph.depthwise import Depthwise
from fanin.theory.graph.operations import Add, Weights
from fanin.theory.graph.plan import NORMALIZATIONS, GraphPlan
from fanin.theory.graph.propagate import Step
from fanin.theory.graph.rows import weight_path


@dataclass(frozen=True)
class Branch:
    """A residual branch: a term of a sum, from where it leaves the stream.

    Attributes
    ----------
    first
        Names of its weight layers that no other weight layer of it precedes.
    last
        Names of the weight layers that end it.
    norms
        Module paths of the normalizations that end it.
    """

    first: frozenset[str]
    last: frozenset[str]
    norms: frozenset[str]


def find_branches(plan: GraphPlan) -> list[Branch]:
    """Return the residual branches of a graph, in forward order.

    The terms of a sum that depend on the fewest weight layers are the stream, the others are
    branches. A sum of terms with as many weight layers each has no branches.
    """
    steps = plan.steps
    ancestors = _ancestors(steps)
    nodes: dict[int, Node] = {}
    for node, number in plan.step_of.items():
        nodes.setdefault(number, node)  # the first one computes it, others are views
    branches = []
    for terms in _sums(steps):
        n_layers = {term: sum(_is_layer(steps[i]) for i in ancestors[term]) for term in terms}
        fewest = min(n_layers.values())
        stream = frozenset().union(*(ancestors[i] for i, n in n_layers.items() if n == fewest))
        branches += [
            _branch(steps, nodes, term, ancestors[term] - stream)
            for term, n in n_layers.items()
            if n > fewest
        ]
    return branches


def _ancestors(steps: Sequence[Step]) -> list[frozenset[int]]:
    """Return the steps on which each step depends, and the step itself."""
    result: list[frozenset[int]] = []
    for number, step in enumerate(steps):
        result.append(frozenset({number}).union(*(result[i] for i in step.inputs)))
    return result


def _sums(steps: Sequence[Step]) -> Iterator[list[int]]:
    """Yield the terms of each sum; `x + a + b` is one sum of three terms."""
    n_readers = Counter(i for step in steps for i in step.inputs)
    inner = {
        i
        for step in steps
        if isinstance(step.operation, Add)
        for i in step.inputs
        if isinstance(steps[i].operation, Add) and n_readers[i] == 1
    }

    def terms(number: int) -> Iterator[int]:
        for i in steps[number].inputs:
            if i in inner:
                yield from terms(i)
            else:
                yield i

    for number, step in enumerate(steps):
        if isinstance(step.operation, Add) and number not in inner:
            yield list(terms(number))


def _branch(
    steps: Sequence[Step], nodes: Mapping[int, Node], term: int, own: frozenset[int]
) -> Branch:
    first: set[str] = set()
    after_layer: set[int] = set()
    for number in sorted(own):
        step = steps[number]
        follows = any(i in after_layer for i in step.inputs)
        if isinstance(step.operation, Weights | Depthwise) and not follows:
            first.add(step.operation.layer.name)
        if follows or _is_layer(step):
            after_layer.add(number)
    ends = list(_ends(steps, nodes, term, own))
    return Branch(
        frozenset(first),
        frozenset(weight_path(node) for node in ends if weight_path(node)),
        frozenset(node.path for node in ends if node.path and not weight_path(node)),
    )


def _ends(
    steps: Sequence[Step], nodes: Mapping[int, Node], term: int, own: frozenset[int]
) -> Iterator[Node]:
    """Yield the last weight layers or normalizations of a branch, from its output backwards."""
    queue = [term]
    while queue:
        number = queue.pop()
        if number not in own:
            continue
        node = nodes.get(number)
        if node is not None and (node.operation in NORMALIZATIONS or weight_path(node)):
            yield node
        else:
            queue += steps[number].inputs


def _is_layer(step: Step) -> bool:
    return isinstance(step.operation, Weights | Depthwise)
