"""Modules that are recorded as one node; all other modules are entered."""

from __future__ import annotations

from functools import cache
from typing import TypeGuard

from torch import nn
from torch.nn.modules import (
    activation,
    batchnorm,
    channelshuffle,
    conv,
    distance,
    dropout,
    flatten,
    fold,
    instancenorm,
    linear,
    normalization,
    padding,
    pixelshuffle,
    pooling,
    rnn,
    sparse,
    upsampling,
)
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from fanin.models import layers

_FILES = (
    *(activation, batchnorm, channelshuffle, conv, distance, dropout, flatten, fold),
    *(instancenorm, linear, normalization, padding, pixelshuffle, pooling, rnn, sparse),
    *(upsampling, layers),
)
LEAF_NAMES = frozenset(file.__name__ for file in _FILES)
WEIGHT_HOOKS = (WeightNorm, SpectralNorm)  # they compute a module's weight before it runs
# A subclass that defines only these computes the same function as its base class.
HARMLESS = {"extra_repr", "reset_parameters", "_reset_parameters", "_init_weights"}


def is_plain_sequence(module: nn.Module) -> TypeGuard[nn.Sequential]:
    """Return True for an `nn.Sequential` that only calls its modules: no other code, no hooks.

    Examples
    --------
    >>> class Residual(nn.Sequential):
    ...     def forward(self, x):
    ...         return x + super().forward(x)
    >>> is_plain_sequence(nn.Sequential()), is_plain_sequence(Residual())
    (True, False)
    """
    return (
        isinstance(module, nn.Sequential)
        and type(module).forward is nn.Sequential.forward
        and type(module).__call__ is nn.Module.__call__
        and "forward" not in vars(module)
        and not _has_user_hooks(module)
    )


def is_leaf(module: nn.Module) -> bool:
    """Return True for a layer of `torch.nn` or `fanin.models.layers` that runs unmodified.

    A layer that was modified is entered instead: its class overrides a method, its `forward` was
    replaced, or it has hooks of the user, which may change its output. Parametrizations and the
    hooks of `torch.nn.utils` that compute the weight do not count.

    Examples
    --------
    >>> is_leaf(nn.Conv2d(3, 8, 3)), is_leaf(nn.Sequential(nn.ReLU()))
    (True, False)
    """
    kind = next((cls for cls in type(module).__mro__ if cls.__module__ in LEAF_NAMES), None)
    if kind is None:
        return False
    added = type(module).__mro__[: type(module).__mro__.index(kind)]
    overridden = {
        name
        for cls in added
        for name in vars(cls)
        if hasattr(kind, name) and name not in HARMLESS and (name == "__call__" or name[:2] != "__")
    }
    is_replaced = not _methods(kind).isdisjoint(vars(module))
    return not overridden and not is_replaced and not _has_user_hooks(module)


@cache
def _methods(kind: type[nn.Module]) -> frozenset[str]:
    """Return the names of the methods of a class of torch or fanin."""
    return frozenset(name for name in dir(kind) if callable(getattr(kind, name)))


def _has_user_hooks(module: nn.Module) -> bool:
    if _global_forward_hooks or _global_forward_pre_hooks:
        return True
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    return any(not isinstance(hook, WEIGHT_HOOKS) for hook in hooks)
