"""Moments beyond what float64 holds: carried near 1e160 or 1e-160, and the rest as a logarithm.

At such sizes every activation in use is linear or constant, so that what it makes of a field can be
computed at the size that is held (`degree`); weight layers and cotangents are linear anyway.
"""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from fanin.theory.elementwise import Function
from fanin.theory.field.cotangent import Coherent, Cotangent
from fanin.theory.field.state import Fed, Made

WIDEST = 200 * math.log(10)  # of log q, either way: up to here moments are held as they are
HELD = 160 * math.log(10)
Moments = TypeVar("Moments", Made, Cotangent, Fed)
LENGTHS = ("mean", "expected_mean", "root")  # which scale as y does, and not as its square


def rescaled(moments: Moments) -> Moments:
    """The same moments, of a size that leaves room for squares and sums.

    Examples
    --------
    >>> huge = Cotangent(torch.full((1, 1, 1, 1), 1e250, dtype=torch.float64))
    >>> held = rescaled(huge)
    >>> round(math.log10(held.m2.item())), round(2 * held.log_scale / math.log(10))
    (160, 90)
    """
    largest = float(moments.m2.max())
    if not 0 < largest < math.inf:
        return moments
    total = math.log(largest) + 2 * moments.log_scale
    if abs(total) <= WIDEST:
        return times(moments, moments.log_scale, 0.0)
    if abs(math.log(largest)) <= WIDEST and moments.log_scale != 0:
        return moments
    excess = (total - math.copysign(HELD, total)) / 2
    return times(moments, moments.log_scale - excess, excess)


def times(moments: Moments, log_factor: float, log_scale: float) -> Moments:
    """Moments of e^log_factor times the variable, with another `log_scale`."""
    if log_factor == 0:
        return replace(moments, log_scale=log_scale)
    length = math.exp(log_factor)
    changes: dict[str, Any] = {"log_scale": log_scale}
    for field in fields(moments):
        value = getattr(moments, field.name)
        if isinstance(value, Coherent):
            changes[field.name] = value.each(lambda x: length * (length * x))
        elif isinstance(value, Tensor):
            small = field.name in LENGTHS
            # Twice by the length: its square may be beyond float64 where the moment is not.
            changes[field.name] = length * value if small else length * (length * value)
    return replace(moments, **changes)


def degree(function: Function, exploding: bool) -> int:
    """Whether a function is linear (1) or constant (0) in very large, or very small, arguments.

    Examples
    --------
    >>> degree(torch.relu, exploding=True), degree(torch.tanh, exploding=True)
    (1, 0)
    >>> degree(torch.tanh, exploding=False)
    1
    """
    size = math.exp(HELD / 2 if exploding else -HELD / 2)
    y = size * torch.tensor([-2.0, -1.0, 1.0, 2.0], dtype=torch.float64)
    here, further = (function(x).abs().sum().item() for x in (y, 10 * y))
    return 1 if here == 0 or further / here > 10**0.5 else 0
