"""Results kept by what they depend on: a network's structure, moments, images, settings.

Theory never reads a weight, so two networks of one structure share their predictions, and so do
two init schemes of equal moments (he_normal and he_uniform).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields, is_dataclass
from types import FunctionType
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor, nn

from fanin.inits.weight_shape import WeightLayer, WeightShape

Result = TypeVar("Result")
KEPT = 64
PLAIN = (int, float, str, bool, type(None), type, FunctionType, torch.dtype, torch.device)
# What torch keeps in every module: hooks, caches, and what is looked at by itself below.
OWN = frozenset(vars(nn.Module()))

_kept: OrderedDict[Hashable, Any] = OrderedDict()


class Unkeyable(Exception):
    """Something whose value no key can stand for."""


def memoized(what: str, compute: Callable[[], Result], *depends_on: Any) -> Result:
    """Return `compute()`, or what it returned when it last depended on the same.

    Parameters
    ----------
    what
        The name of what is computed.
    compute
        A function that is deterministic, given what it depends on.
    depends_on
        Modules, tensors, numbers, words, and tuples, mappings or dataclasses of those. A module
        stands for its structure and what its non-weight layers hold; weights are not looked at.
        With anything else in it nothing is kept, and `compute` runs each time.

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
        key = (what, _key(depends_on))
    except Unkeyable:
        return compute()
    if key not in _kept:
        _kept[key] = compute()
        if len(_kept) > KEPT:
            _kept.popitem(last=False)
    _kept.move_to_end(key)
    result: Result = _kept[key]
    return result


def _key(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        if value.is_meta:
            raise Unkeyable
        # numpy has no bfloat16; bytes are bytes.
        flat = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        return (value.dtype, tuple(value.shape), hashlib.sha256(flat.numpy().tobytes()).digest())
    if isinstance(value, nn.Module):
        return _structure(value)
    if isinstance(value, PLAIN):
        # 1 == 1.0 == True, but they may mean different things to a module.
        return (type(value), value)
    if isinstance(value, Mapping):
        return tuple((_key(key), _key(entry)) for key, entry in value.items())
    if isinstance(value, list | tuple):
        return (type(value), *(_key(entry) for entry in value))
    if is_dataclass(value) and not isinstance(value, type):
        return (type(value), *(_key(getattr(value, each.name)) for each in fields(value)))
    raise Unkeyable


def _structure(module: nn.Module, seen: list[nn.Module] | None = None) -> Hashable:
    seen = [] if seen is None else seen
    for place, earlier in enumerate(seen):
        if earlier is module:
            return ("again", place)
    seen.append(module)
    if module._forward_hooks or module._forward_pre_hooks:
        raise Unkeyable
    kind = type(module)
    if kind in get_args(WeightLayer):
        options = ("stride", "padding", "dilation", "padding_mode")
        own = tuple(getattr(module, name, None) for name in options)
        return (kind, _key(WeightShape.of(module)), module.bias is None, _key(own))
    held = {key: entry for key, entry in vars(module).items() if key not in OWN}
    state = {**module._parameters, **module._buffers}
    children = ((name, child) for name, child in module._modules.items() if child is not None)
    parts = tuple((name, _structure(child, seen)) for name, child in children)
    return (kind, module.training, _key(held), _key(state), parts)
