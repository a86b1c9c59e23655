"""In-memory cache of predictions, keyed by network structure, moments, images and settings.

Theory never reads a weight, so networks with the same structure share cached predictions, and so
do init schemes with equal moments (`he_normal` and `he_uniform`).
"""

from __future__ import annotations

import dis
import hashlib
import sys
import sysconfig
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from types import (
    BuiltinFunctionType,
    CodeType,
    EllipsisType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor, nn

from fanin.inits.weight_shape import WeightLayer, WeightShape

Result = TypeVar("Result")
MAX_ENTRIES = 64
HASHABLE_TYPES = (
    *(int, float, complex, str, bool, type(None), type, EllipsisType),
    *(FunctionType, BuiltinFunctionType, MethodDescriptorType, WrapperDescriptorType),
    *(MethodWrapperType, torch.dtype, torch.device, torch.layout, torch.memory_format),
    torch._ops.OpOverload,
)
# Attributes of every nn.Module: hooks, and the parameters, buffers and children hashed separately.
MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))
FIXED = ("builtins", "fanin", "torch", "typing")  # packages whose classes nobody redefines
SITE_PACKAGES = tuple({sysconfig.get_path(name) for name in ("purelib", "platlib")})
IMPORT = dis.opmap["IMPORT_NAME"]

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
        Modules, functions, tensors, numbers, strings, and tuples, mappings or dataclasses of those.
        A module is compared by its structure, by the state of its layers without weights, and by
        the code of the user's classes and what that reads; its weights are ignored. Any other type
        disables the cache, and `compute` runs each time. So does code that reads a module of the
        user, such as `config.ALPHA`.

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
        key = (name, cache_key(*depends_on))
    except NotHashable:
        return compute()
    if key not in _results:
        _results[key] = compute()
        if len(_results) > MAX_ENTRIES:
            _results.popitem(last=False)
    _results.move_to_end(key)
    result: Result = _results[key]
    return result


def cache_key(*depends_on: Any) -> Hashable:
    """Return a key that differs for arguments with different results; see `memoized`."""
    return _KeyBuilder().key(depends_on)


class _KeyBuilder:
    """Builds one key. Modules, functions and classes that occur again have the key of a number."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}

    def key(self, value: Any) -> Hashable:
        """Return the key of a value.

        Raises
        ------
        NotHashable
            The value, or something that it uses, is of another type.
        """
        match value:
            case Tensor():
                return _tensor_key(value)
            case nn.Module():
                return self._once(value, self._module_key)
            case FunctionType() if not _is_library(value.__module__):
                return self._once(value, self._function_key)
            case type() if not _is_library(value.__module__):
                return self._once(value, self._class_key)
            case ModuleType():
                # The key of a user's module would have to contain all that its functions read.
                if not _is_library(value.__name__, getattr(value, "__file__", None)):
                    raise NotHashable
                return value.__name__
            case slice():
                return (slice, self.key((value.start, value.stop, value.step)))
            case partial():
                return (partial, self.key((value.func, value.args, value.keywords)))
            case MethodType():
                return (MethodType, self.key((value.__func__, value.__self__)))
            case staticmethod() | classmethod():
                return (type(value), self.key(value.__func__))
            case property():
                return (property, self.key((value.fget, value.fset)))
        if isinstance(value, HASHABLE_TYPES):
            # The type is part of the key because 1 == 1.0 == True.
            return (type(value), value)
        if isinstance(value, Mapping):
            return tuple((self.key(key), self.key(entry)) for key, entry in value.items())
        if isinstance(value, list | tuple):
            return (type(value), *(self.key(entry) for entry in value))
        if is_dataclass(value) and not isinstance(value, type):
            entries = (self.key(getattr(value, f.name)) for f in fields(value))
            return (type(value), *entries)
        raise NotHashable

    def _once(self, value: Any, compute: Callable[[Any], Hashable]) -> Hashable:
        number = len(self._numbers)
        first = self._numbers.setdefault(id(value), number)
        return compute(value) if first == number else ("again", first)

    def _module_key(self, module: nn.Module) -> Hashable:
        if module._forward_hooks or module._forward_pre_hooks:
            raise NotHashable
        module_type = type(module)
        attributes = {key: v for key, v in vars(module).items() if key not in MODULE_ATTRIBUTES}
        classes = (cls for cls in module_type.__mro__ if not _is_fixed(cls))
        code = tuple(self._once(cls, self._class_key) for cls in classes)
        state = {**module._parameters, **module._buffers}
        weight: tuple[Any, ...] = ()
        if module_type in get_args(WeightLayer):  # its weights are ignored
            has_bias = module.bias is not None
            weight = (WeightShape.of(module), has_bias)
            state = {name: x for name, x in state.items() if name not in ("weight", "bias")}
        modules = ((name, child) for name, child in module._modules.items() if child is not None)
        children = tuple((name, self.key(child)) for name, child in modules)
        own = self.key((weight, attributes, state))
        return (module_type, code, module.training, own, children)

    def _class_key(self, cls: type) -> Hashable:
        """Return the functions and attributes of a user's class, which a notebook may redefine."""
        own = {
            name: value
            for name, value in vars(cls).items()
            if name == "__call__" or (name[:2] != "__" and name != "_abc_impl")
        }
        if not issubclass(cls, nn.Module):  # its instances may be created in `forward`
            dunders = {k: v for k, v in vars(cls).items() if isinstance(v, FunctionType)}
            own = dunders | own
        bases = tuple(self.key(base) for base in cls.__bases__)
        return (cls, bases, self.key(own))

    def _function_key(self, function: FunctionType) -> Hashable:
        """Return the code of a function, and what it reads from its module and its closure."""
        try:
            cells = [cell.cell_contents for cell in function.__closure__ or ()]
        except ValueError:  # a name that is not defined yet
            raise NotHashable from None
        codes = list(_nested_code(function.__code__))
        for name in (name for code in codes for name in _imported(code)):
            if not _is_library(name):
                raise NotHashable
        names = dict.fromkeys(name for code in codes for name in code.co_names)
        read = [function.__globals__[name] for name in names if name in function.__globals__]
        defaults = (function.__defaults__ or (), function.__kwdefaults__ or {})
        return (function.__code__, self.key((read, cells, defaults)))


def _tensor_key(value: Tensor) -> Hashable:
    if value.is_meta:
        raise NotHashable
    # Viewed as bytes, because numpy has no bfloat16.
    raw = value.detach().cpu().contiguous().flatten().view(torch.uint8)
    return (value.dtype, tuple(value.shape), hashlib.sha256(raw.numpy().tobytes()).digest())


def _nested_code(code: CodeType) -> Iterator[CodeType]:
    """Yield the code of a function, and of the functions and comprehensions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested_code(constant)


def _imported(code: CodeType) -> list[str]:
    """Return the names of the modules that a function imports."""
    if IMPORT not in code.co_code[::2]:
        return []
    return [x.argval for x in dis.get_instructions(code) if x.opname == "IMPORT_NAME"]


def _is_fixed(cls: type) -> bool:
    return (cls.__module__ or "").partition(".")[0] in FIXED


def _is_library(name: str | None, file: str | None = None) -> bool:
    """Return True for modules of Python, and for those that are installed as packages."""
    top = (name or "").partition(".")[0]
    if top in FIXED or top in sys.stdlib_module_names:
        return True
    file = file or getattr(sys.modules.get(name or ""), "__file__", None)
    return file is not None and file.startswith(SITE_PACKAGES)
