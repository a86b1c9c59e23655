"""`Recorder`: runs a model once and records every call of a layer or of a torch function."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fanin.graph import refusals
from fanin.graph.errors import GraphError
from fanin.graph.graph import Kind, Node
from fanin.graph.operations import function_name
from fanin.graph.run_record import Alteration, RunRecord, ValueRead
from fanin.graph.source import Source, find_source
from fanin.graph.state import RandomState
from fanin.graph.structure import Keys, entries, map_structure, pick
from fanin.graph.tensors import Geometry, TensorNodes, geometry, memory, overwrite

# Functions that give the value of a tensor to Python code.
VALUE_READS = {
    *("item", "tolist", "numpy", "bool", "int", "float", "index", "complex", "array"),
    *("contains", "equal", "allclose", "is_nonzero"),
}
# Functions whose result depends on the shape of their argument, not on its values.
SHAPE_ONLY = {
    *("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like"),
    *("new_zeros", "new_ones", "new_full", "new_empty", "new_tensor"),
}
GRADIENT_FUNCTIONS = {"backward", "grad", "jacobian", "hessian", "vjp", "jvp"}
UNINITIALIZED = {"empty", "empty_like", "new_empty", "empty_strided", "empty_permuted"}
# Functions that may change nothing on one image but something on several, or the reverse.
DEPEND_ON_BATCH = {"expand", "expand_as", "broadcast_to", "reshape", "view"}
# Properties of a tensor that are tensors with the same or rearranged values.
TENSOR_PROPERTIES = {"T", "mT", "H", "mH", "data", "real", "imag"}


class Recorder(TorchFunctionMode):
    """Records the calls of leaf modules, and of torch functions outside them.

    `nn.Module.__call__` is replaced during the run, as by `torch.fx`: hooks cannot be registered
    on modules that are created in `forward`, and would not show a module's keyword arguments.
    """

    def __init__(
        self,
        model: nn.Module,
        is_leaf: Callable[[nn.Module], bool],
        buffers: Mapping[str, Tensor],
        alteration: Alteration | None = None,
    ) -> None:
        super().__init__()
        self._model = model
        self._is_leaf = is_leaf
        self._paths: dict[int, list[str]] = {}  # several for a module that is assigned twice
        for name, module in model.named_modules(remove_duplicate=False):
            self._paths.setdefault(id(module), []).append(name)
        self._n_calls: Counter[tuple[int, str]] = Counter()
        self._buffers = buffers
        self._alteration = alteration
        self._modes = {id(module): module.training for module in model.modules()}
        self._names: dict[int, tuple[str, Kind]] = {}
        for name, parameter in model.named_parameters():
            self._names[id(parameter)] = (name, "parameter")
        self._run_record = RunRecord()
        self._tensors = TensorNodes(self._add_overwrite)
        self._path = [""]
        self._is_paused = False
        self._drawn: set[Node] = set()  # nodes that depend on random numbers
        self._source = Source()
        self._error: GraphError | None = None
        self._random = RandomState()
        self.failed_path = ""  # of the innermost module in which an exception was raised

    def run(self, images: Tensor) -> RunRecord:
        """Run the model on images that require gradients, and return the record.

        The model has copies of its buffers; the nodes refer to the buffers themselves.
        """
        for name, buffer in self._model.named_buffers():
            self._names[id(buffer)] = (name, "buffer")
        node = Node(-1, "input", None, requires_grad=True, depends_on_images=True)
        self._tensors.add(images, self._add(node, images))
        self._random = RandomState()
        with torch.enable_grad(), self._module_calls(), self:
            output = self._call_output(images)
        if self._error is not None:  # the model's own `try` may have caught it
            raise self._error
        self._source = Source()
        self._run_record.output = map_structure(self._reference, output)
        return self._run_record

    def _call_output(self, images: Tensor) -> Any:
        return self._model(images)

    # --- modules --------------------------------------------------------------------------------

    @contextmanager
    def _module_calls(self) -> Iterator[None]:
        original, thread = nn.Module.__call__, threading.get_ident()

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != thread or self._is_paused:
                return original(module, *args, **kwargs)
            if self._error is not None:  # the model's own `try` has caught it
                raise self._error
            path = self._find_path(module)
            self._path.append(path)
            try:
                if self._is_leaf(module) and self._has_own_weights(module):
                    return self._call_leaf(module, original, args, kwargs)
                return original(module, *args, **kwargs)
            except Exception:
                self.failed_path = self.failed_path or path
                raise
            finally:
                self._path.pop()

        nn.Module.__call__ = call  # type: ignore[method-assign]
        try:
            yield
        finally:
            nn.Module.__call__ = original  # type: ignore[method-assign]

    def _find_path(self, module: nn.Module) -> str:
        """Return a module's path; of several, the next one below the module that calls it."""
        parent = self._path[-1]
        paths = self._paths.get(id(module), [parent])
        paths = [path for path in paths if path.rpartition(".")[0] == parent] or paths
        n_calls = self._n_calls[id(module), parent]
        self._n_calls[id(module), parent] += 1
        return paths[min(n_calls, len(paths) - 1)]

    def _has_own_weights(self, module: nn.Module) -> bool:
        """Return False if `torch.func.functional_call` has replaced weights, or none are known."""
        return all(id(parameter) in self._names for parameter in module.parameters())

    def _call_leaf(
        self, module: nn.Module, original: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        self._locate()
        if module.training != self._modes.get(id(module), module.training):
            self._fail("forward sets its mode; call model.train() or model.eval() before")
        self._is_paused = True
        try:
            run = partial(original, module, *args, **kwargs)
            return self._record("module", module, args, kwargs, run)
        finally:
            self._is_paused = False

    # --- functions ------------------------------------------------------------------------------

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._is_paused or self._error is not None:
            return function(*args, **kwargs)
        name, slot = function_name(function), getattr(function, "__name__", "")
        if slot == "__get__" and name not in TENSOR_PROPERTIES:
            return function(*args, **kwargs)
        self._locate()
        if slot == "__set__" and name == "data":
            self._fail("it assigns to .data, which is not supported; use a new tensor")
        if name in GRADIENT_FUNCTIONS:
            self._fail("it computes gradients inside forward, which is not supported")
        if name == "register_hook":
            self._fail("it registers a hook for gradients inside forward, which is not supported")
        kind: Kind = "method" if hasattr(Tensor, slot) else "function"
        return self._record(kind, function, args, kwargs, lambda: function(*args, **kwargs))

    # --- nodes ----------------------------------------------------------------------------------

    def _record(
        self, kind: Kind, target: Any, args: Any, kwargs: Any, run: Callable[[], Any]
    ) -> Any:
        """Run a call, and add its nodes."""
        self._check(refusals.custom_function(self._source.custom_function))
        self._check(refusals.arguments((args, kwargs)))
        tensors = [value for _, value in entries((args, kwargs)) if isinstance(value, Tensor)]
        references = [self._reference(tensor) for tensor in tensors]
        versions = [tensor._version for tensor in tensors]
        node = self._make_node(kind, target, args, kwargs)
        result = run()
        self._check_random(node)
        changed = [i for i, t in enumerate(tensors) if t._version != versions[i]]
        values = [(keys, v) for keys, v in entries(result) if isinstance(v, Tensor)]
        name = "" if kind == "module" else function_name(target)
        if not values and not changed:
            return self._read_value(node, name, result) if name in VALUE_READS else result
        for _, value in values:
            self._check(refusals.tensor(value))
        if name in UNINITIALIZED:
            result.zero_()  # its memory has other values in each run
        node.mutates = tuple(dict.fromkeys(references[i] for i in changed))
        overwritten = [tensors[i] for i in changed]
        if not values or any(result is tensor for tensor in overwritten):
            tensor = overwritten[0] if not values else result
            self._check(refusals.change(tensor, self._source.in_checkpoint))
            self._tensors.change(tensor, self._finish(node, name, tensor))
            return result
        if isinstance(result, Tensor) and any(map(partial(_is_same, result), tensors)):
            is_argument = any(result is tensor for tensor in tensors)
            if kind != "module" and (is_argument or name not in DEPEND_ON_BATCH):
                return result  # such as x.contiguous()
            if is_argument:
                result = torch.ops.aten.alias(result)
                values = [((), result)]
        recompute = partial(self._recompute, kind, target, args, kwargs, node)
        is_single = isinstance(result, Tensor)
        if not is_single:
            self._finish(node, name, None, [value for _, value in values])
        for keys, value in values:
            is_view = any(memory(value) == memory(tensor) for tensor in tensors if tensor.numel())
            entry = node if is_single else self._item(node, keys)
            self._tensors.add(
                value,
                self._finish(entry, name, value),
                partial(recompute, keys, value) if is_view else None,
            )
        return result

    def _make_node(self, kind: Kind, target: Any, args: Any, kwargs: Any) -> Node:
        node_args, node_kwargs = map_structure(self._reference, (tuple(args), dict(kwargs)))
        return Node(
            *(-1, kind, target, node_args, node_kwargs),
            path=self._path[-1],
            line=self._source.line,
        )

    def _item(self, node: Node, keys: Keys) -> Node:
        return Node(-1, "function", pick, (node, *keys), {}, node.path, node.line)

    def _finish(
        self, node: Node, name: str, value: Tensor | None, several: Sequence[Tensor] = ()
    ) -> Node:
        """Set what follows from a node's inputs and value, and add it."""
        inputs = node.inputs
        if node.is_random or any(entry in self._drawn for entry in inputs):
            self._drawn.add(node)
        node.depends_on_images = name not in SHAPE_ONLY and any(
            entry.depends_on_images for entry in inputs
        )
        is_constant = all(map(_is_constant, inputs)) or (name in SHAPE_ONLY and len(inputs) == 1)
        if value is not None and is_constant and not node.is_random and node.kind != "module":
            return self._add_constant(value)
        values = [value] if value is not None else list(several)
        node.requires_grad = any(v.requires_grad for v in values) or (
            self._source.in_checkpoint
            and any(entry.requires_grad for entry in inputs)
            and any(v.is_floating_point() for v in values)
        )
        return self._add(node, value)

    def _add(self, node: Node, value: Tensor | None) -> Node:
        node.index = len(self._run_record.nodes)
        self._run_record.nodes.append(node)
        if value is not None:
            node.shape, node.dtype = tuple(value.shape), value.dtype
            self._run_record.values[node.index] = (value, value._version)
        return node

    def _add_constant(self, value: Tensor) -> Node:
        target = value.detach().clone()
        return self._add(
            Node(-1, "constant", target, path=self._path[-1], line=self._source.line), target
        )

    def _read_value(self, node: Node, name: str, value: Any) -> Any:
        """Record that Python code reads a value, and return it."""
        inputs = node.inputs
        if all(map(_is_constant, inputs)):
            return value
        depends_on_images = any(entry.depends_on_images for entry in inputs)
        if any(entry in self._drawn for entry in inputs) and not depends_on_images:
            self._fail(
                "Python code reads a random number, so each run may compute something else; call"
                " model.eval()"
            )
        read = ValueRead(node.line, node.path, name, depends_on_images)
        self._run_record.value_reads.append(read)
        alteration = self._alteration
        if alteration is None or alteration.read != read:
            return value
        self._alteration = None  # once, so that each loop ends
        return alteration.apply(value)

    def _add_overwrite(
        self, old: Node, new: Node, place: Geometry, new_place: Geometry, tensor: Tensor
    ) -> Node:
        if old.kind == new.kind == "constant":
            return self._add_constant(overwrite(old.target, new.target, place, new_place))
        node = Node(
            *(-1, "function", overwrite, (old, new, place, new_place), {}),
            path=self._path[-1],
            line=self._source.line,
        )
        self._finish(node, "", tensor)
        # The tensor may have been changed several times since: it has the value of the last node.
        del self._run_record.values[node.index]
        return node

    def _recompute(
        self,
        kind: Kind,
        target: Any,
        args: Any,
        kwargs: Any,
        first: Node,
        keys: Keys,
        value: Tensor,
    ) -> Node:
        """Add the nodes of a view again, after a change of the tensor that it shows."""
        node = self._make_node(kind, target, args, kwargs)
        node.path, node.line = first.path, first.line
        if keys:
            self._finish(node, "", None, [value])
            node = self._item(node, keys)
        return self._finish(node, "", value)

    def _reference(self, value: Any) -> Any:
        """Return the node of a tensor; other values are unchanged."""
        if not isinstance(value, Tensor):
            return value
        node = self._tensors.get(value)
        if node is None:
            node = self._add_unknown(value)
            self._tensors.add(value, node)
        elif value.requires_grad and not node.requires_grad:
            self._fail(
                "it changes a tensor in place through .data or .detach(), so the gradient is that"
                " of other values; use a new tensor",
                node,
            )
        return node

    def _add_unknown(self, tensor: Tensor) -> Node:
        """Add a node for a tensor that no recorded call computed."""
        if id(tensor) in self._names:
            name, kind = self._names[id(tensor)]
            target = self._buffers[name] if kind == "buffer" else tensor
            node = Node(-1, kind, target, path=name, requires_grad=tensor.requires_grad)
            return self._add(node, tensor)
        self._check(refusals.unknown_tensor(tensor))
        return self._add_constant(tensor)

    # --- checks ---------------------------------------------------------------------------------

    def _locate(self) -> None:
        self._source = find_source(sys._getframe(2), Recorder._call_output.__code__)

    def _fail(self, reason: str, node: Node | None = None) -> NoReturn:
        """Raise an error that names the current line, or that of a node."""
        path, line = (self._path[-1], self._source.line) if node is None else (node.path, node.line)
        self._error = GraphError(reason, path, line)
        raise self._error

    def _check(self, reason: str | None) -> None:
        if reason is not None:
            self._fail(reason)

    def _check_random(self, node: Node) -> None:
        before, self._random = self._random, RandomState()
        self._check(refusals.PYTHON_RANDOM if before.python_differs(self._random) else None)
        node.is_random = before.torch_differs(self._random)


def _is_constant(node: Node) -> bool:
    """Return True for a constant, and for a call that returns several constants."""
    is_tuple = node.shape is None and node.kind in ("function", "method") and not node.is_random
    return node.kind == "constant" or (is_tuple and all(map(_is_constant, node.inputs)))


def _is_same(a: Tensor, b: Tensor) -> bool:
    """Return True if two tensors have the same values in the same memory."""
    return (*(memory(a), geometry(a), a.dtype, a.requires_grad),) == (
        *(memory(b), geometry(b), b.dtype, b.requires_grad),
    )
