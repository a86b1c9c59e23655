"""In-memory cache of predictions, keyed by network structure, moments, images and settings.

Theory never reads a weight, so networks with the same structure share cached predictions, and so
do init schemes with equal moments (`he_normal` and `he_uniform`).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields, is_dataclass
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor, nn

from fanin.inits.weight_shape import WeightLayer, WeightShape

Result = TypeVar("Result")
MAX_ENTRIES = 64
HASHABLE_TYPES = (
    *(int, float, str, bool, type(None), type),
    *(FunctionType, BuiltinFunctionType, torch.dtype, torch.device),
)
# Attributes of every nn.Module: hooks, and the parameters, buffers and children hashed separately.
MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))

_results: OrderedDict[Hashable, Any] = OrderedDict()


class NotHashable(Exception):
    """An argument that cannot be part of a cache key."""


def memoized(name: str, compute: Callable[[], Result], *depends_on: Any) -> Result:
    """Return `compute()`, or the cached result of an earlier call with equal arguments.

    Parameters
    ----------
    name
        Name of the computation; part of the cache key.
    compute
        A function that is deterministic given `depends_on`.
    depends_on
        Modules, tensors, numbers, strings, and tuples, mappings or dataclasses of those. A module
        is compared by its structure and by the state of its layers without weights; its weights
        are ignored. Any other type disables the cache, and `compute` runs each time.

    Examples
    --------
    >>> memoized("example", lambda: "first", nn.Linear(2, 3), torch.ones(2))
    'first'
    >>> memoized("example", lambda: "second", nn.Linear(2, 3), torch.ones(2))
    'first'
    >>> memoized("example", lambda: "third", nn.Linear(2, 3), torch.zeros(2))
    'third'
    """
    try:
        key = (name, _cache_key(depends_on))
    except NotHashable:
        return compute()
    if key not in _results:
        _results[key] = compute()
        if len(_results) > MAX_ENTRIES:
            _results.popitem(last=False)
    _results.move_to_end(key)
    result: Result = _results[key]
    return result


def _cache_key(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        if value.is_meta:
            raise NotHashable
        # Viewed as bytes, because numpy has no bfloat16.
        raw = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        return (value.dtype, tuple(value.shape), hashlib.sha256(raw.numpy().tobytes()).digest())
    if isinstance(value, nn.Module):
        return _structure_key(value)
    if isinstance(value, HASHABLE_TYPES):
        # The type is part of the key because 1 == 1.0 == True.
        return (type(value), value)
    if isinstance(value, Mapping):
        return tuple((_cache_key(key), _cache_key(entry)) for key, entry in value.items())
    if isinstance(value, list | tuple):
        return (type(value), *(_cache_key(entry) for entry in value))
    if is_dataclass(value) and not isinstance(value, type):
        return (type(value), *(_cache_key(getattr(value, f.name)) for f in fields(value)))
    raise NotHashable


def _structure_key(module: nn.Module, visited: list[nn.Module] | None = None) -> Hashable:
    visited = [] if visited is None else visited
    for index, earlier in enumerate(visited):
        if earlier is module:
            return ("again", index)
    visited.append(module)
    if module._forward_hooks or module._forward_pre_hooks:
        raise NotHashable
    module_type = type(module)
    if module_type in get_args(WeightLayer):
        names = ("stride", "padding", "dilation", "padding_mode")
        options = tuple(getattr(module, name, None) for name in names)
        shape = WeightShape.of(module)
        return (module_type, _cache_key(shape), module.bias is None, _cache_key(options))
    attributes = {key: v for key, v in vars(module).items() if key not in MODULE_ATTRIBUTES}
    code = tuple(_class_key(cls) for cls in module_type.__mro__ if not _is_library(cls))
    state = {**module._parameters, **module._buffers}
    modules = ((name, child) for name, child in module._modules.items() if child is not None)
    children = tuple((name, _structure_key(child, visited)) for name, child in modules)
    return (module_type, code, module.training, _cache_key(attributes), _cache_key(state), children)


def _is_library(value: type | FunctionType) -> bool:
    return (value.__module__ or "").partition(".")[0] in ("builtins", "fanin", "torch", "typing")


def _class_key(cls: type) -> Hashable:
    """Return the functions and attributes of a user's class, which a notebook may redefine."""
    own = {
        name: value for name, value in vars(cls).items() if name == "__call__" or name[:2] != "__"
    }
    return tuple(
        (name, _function_key(value) if isinstance(value, FunctionType) else _cache_key(value))
        for name, value in own.items()
    )


def _function_key(function: FunctionType, callers: tuple[FunctionType, ...] = ()) -> Hashable:
    """Return the code of a function, and what it reads from its module and its closure."""
    if function in callers:
        return function.__name__
    try:
        cells = [cell.cell_contents for cell in function.__closure__ or ()]
    except ValueError:  # a name that is not defined yet
        raise NotHashable from None
    names = [name for name in function.__code__.co_names if name in function.__globals__]
    read = [function.__globals__[name] for name in names]
    keys: list[Hashable] = []
    for value in (*read, *cells, *(function.__defaults__ or ())):
        if isinstance(value, FunctionType) and not _is_library(value):
            keys.append(_function_key(value, (*callers, function)))
        elif not isinstance(value, ModuleType):
            keys.append(_cache_key(value))
    return (function.__code__, *keys)
