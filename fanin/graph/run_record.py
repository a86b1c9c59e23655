"""Record of one run: nodes, values, and the places where Python code read a value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fanin.graph.graph import Node


@dataclass(frozen=True)
class ValueRead:
    """A place where Python code read the value of a tensor."""

    line: str
    path: str
    function: str
    depends_on_images: bool


@dataclass(frozen=True)
class Alteration:
    """Another value for the first read at one place, to find out if the graph depends on it."""

    read: ValueRead
    sign: int

    def apply(self, value: Any) -> Any:
        """Return the opposite of a bool, the next integer, or a much larger float."""
        if isinstance(value, bool):
            return not value
        if isinstance(value, int):
            return value + self.sign
        return self.sign * 1e3 * (1 + abs(value)) if isinstance(value, float) else value


@dataclass
class RunRecord:
    """Result of one recorded run.

    Attributes
    ----------
    nodes
        All nodes, also those that do not affect the output.
    output
        The model's output with nodes in the place of tensors.
    values
        Value of each node at the end of the run and its version when the node was recorded, by
        the node's index. A higher version now means that it was changed in place.
    value_reads
        Places where Python code read a value that depends on images or weights.
    """

    nodes: list[Node] = field(default_factory=list)
    output: Any = None
    values: dict[int, tuple[Tensor, int]] = field(default_factory=dict)
    value_reads: list[ValueRead] = field(default_factory=list)
