"""`Graph` and `Node`: the operations of one forward pass, and their replay."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fanin.errors import InputError
from fanin.graph.errors import GraphError
from fanin.graph.operations import operation_name, read_arguments
from fanin.graph.state import copied_buffers
from fanin.graph.structure import Entry, entries, map_structure

Kind = Literal["input", "parameter", "buffer", "constant", "module", "function", "method"]


@dataclass(eq=False, repr=False)
class Node(Entry):
    """One value of a graph: an input, a parameter, a constant, or the result of a call.

    A value never changes. An operation in place is a node with a new value, and what reads the
    tensor afterwards refers to this node.

    Attributes
    ----------
    index
        Position in `Graph.nodes`.
    kind
        `input`, `parameter`, `buffer`, `constant`, `module`, `function` or `method`.
    target
        The module or the function that is called; the tensor of a parameter, buffer or constant.
        None for the input.
    args, kwargs
        Arguments of the call. Nodes stand for tensors, also inside tuples, lists and dictionaries.
    path
        Module path of the module that is called, or of the module in whose `forward` a function is
        called; the name of a parameter or buffer.
    line
        The user's line, such as `net.py:34: x = x + y`; empty if the call is inside torch, as in
        an `nn.Sequential`.
    shape, dtype
        Of the value; None for a call that returns several tensors. A node with
        `operation == "item"` follows for each of them.
    requires_grad
        False if no gradient flows through the node: it follows a `detach`, runs in
        `torch.no_grad()`, or has no differentiable input.
    depends_on_images
        False if the value is the same for all images.
    is_random
        True if the call draws random numbers.
    mutates
        Nodes whose tensors the call overwrites.
    """

    index: int
    kind: Kind
    target: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] | None = None
    path: str = ""
    line: str = ""
    shape: tuple[int, ...] | None = None
    dtype: torch.dtype | None = None
    requires_grad: bool = False
    depends_on_images: bool = False
    is_random: bool = False
    mutates: tuple[Node, ...] = ()

    @property
    def operation(self) -> str:
        """Name of the operation: the same for `x + y`, `x += y`, `torch.add(x, y)`.

        Operations outside the table `OPERATIONS` have the name of the function or the class. A
        node that is not a call has its kind.
        """
        is_call = self.kind in ("module", "function", "method")
        return operation_name(self.target) if is_call else self.kind

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments by the names in `OPERATIONS`, however the user wrote the call.

        Arguments of modules, such as `stride`, are read from the module.

        Raises
        ------
        GraphError
            The operation is not in `OPERATIONS`, or is called in an unusual way.
        """
        try:
            return read_arguments(self.target, self.args, self.kwargs or {})
        except TypeError as error:
            raise GraphError(str(error), self.path, self.line) from error

    @property
    def inputs(self) -> tuple[Node, ...]:
        """Nodes in the arguments, in order, each once."""
        nested = entries((self.args, self.kwargs or {}))
        return tuple(dict.fromkeys(value for _, value in nested if isinstance(value, Node)))

    def run(self, value_of: Callable[[Node], Any]) -> Any:
        """Run the call on the values of its inputs, which are not overwritten."""
        # Batch normalization changes buffers without increasing their version.
        changed = (*self.mutates, *(node for node in self.inputs if node.kind == "buffer"))
        copies = {id(node): value_of(node).clone() for node in changed}

        def value(entry: Any) -> Any:
            if not isinstance(entry, Node):
                return entry
            return copies[id(entry)] if id(entry) in copies else value_of(entry)

        args, kwargs = map_structure(value, (self.args, self.kwargs or {}))
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.requires_grad):
            if isinstance(self.target, nn.Module):
                with copied_buffers(self.target):  # batch normalization updates its statistics
                    result = self.target(*args, **kwargs)
            else:
                result = self.target(*args, **kwargs)
        # Functions such as `x[:, 0] = y` return None.
        return copies[id(self.mutates[0])] if result is None and self.mutates else result

    def __repr__(self) -> str:
        return f"%{self.index}"

    def describe(self) -> str:
        """Return one line: the index, operation, arguments, shape, path and the user's line."""
        call = self.operation
        if self.kind in ("module", "function", "method"):
            named = (f"{key}={value!r}" for key, value in (self.kwargs or {}).items())
            call += f"({', '.join((*map(repr, self.args), *named))})"
        shape = "" if self.shape is None else f" {list(self.shape)}"
        place = "  ".join(filter(None, (self.path, self.line)))
        return f"%{self.index} = {call}{shape}  {place}".rstrip()


@dataclass(frozen=True)
class Graph:
    """The operations of a model's forward pass.

    Attributes
    ----------
    nodes
        In the order in which they ran. Without operations on which the output does not depend.
    output
        Node of the output; a nested structure of nodes if the model returns several tensors.
    value_reads
        The user's lines at which Python code read the value of a tensor that depends on the images
        or the weights, such as `assert x.isfinite().all()`. `record` has tried other images and
        other values there, and the graph was the same. Code that compares a weight with a number,
        or an activation with a number that is a thousand times larger, may still compute something
        else for other weights.
    """

    nodes: tuple[Node, ...]
    output: Any
    value_reads: tuple[str, ...] = ()

    @property
    def outputs(self) -> dict[str, Node]:
        """Output nodes by name, such as `logits` or `0.hidden`; one output has the name ""."""
        return {
            ".".join(map(str, keys)): value
            for keys, value in entries(self.output)
            if isinstance(value, Node)
        }

    def replay(self, images: Float[Tensor, "image ..."]) -> Any:
        """Run the nodes on images of the recorded shape.

        Parameters, buffers and modes are those that the model has now. Buffers are not changed.

        Returns
        -------
        Tensor or nested structure
            The output, in the structure of `output`.

        Raises
        ------
        InputError
            The images have another shape.
        """
        expected = self.nodes[0].shape
        if tuple(images.shape) != expected:
            raise InputError(
                f"images have shape {tuple(images.shape)}, and the graph was recorded for"
                f" {expected}; record the model on the new images"
            )
        outputs = set(self.outputs.values())
        values = {node: value for node, value in self.run(images) if node in outputs}
        return map_structure(
            lambda entry: values[entry] if isinstance(entry, Node) else entry, self.output
        )

    def rebind(self, model: nn.Module, copy: nn.Module) -> Graph:
        """Return the graph of a copy of the recorded model, whose nodes call the copy's modules."""
        memo: dict[int, Any] = {id(node.target): node.target for node in self.nodes}
        memo |= {id(a): b for a, b in zip(_parts(model), _parts(copy), strict=True)}
        return deepcopy(self, memo)

    def run(self, images: Float[Tensor, "image ..."]) -> Generator[tuple[Node, Any], Any, None]:
        """Run the nodes on images, and yield each with its value.

        A value is freed after its last use, unless the caller keeps it. If the caller sends
        another value, the later nodes use it.
        """
        last_use = {node: consumer.index for consumer in self.nodes for node in consumer.inputs}
        values: dict[Node, Any] = {}
        for node in self.nodes:
            if node.kind == "input":
                values[node] = images
            elif node.kind in ("parameter", "buffer", "constant"):
                values[node] = node.target
            else:
                values[node] = node.run(values.__getitem__)
            sent = yield node, values[node]
            if sent is not None:
                values[node] = sent
            for used in (*node.inputs, node):
                if last_use.get(used, -1) <= node.index:
                    values.pop(used, None)

    def __str__(self) -> str:
        lines = [node.describe() for node in self.nodes]
        return "\n".join([*lines, f"output: {self.output!r}"])


def _parts(model: nn.Module) -> Iterator[nn.Module | Tensor]:
    yield from model.modules()
    yield from model.parameters()
    yield from model.buffers()
