"""Reasons to refuse a call or a tensor: what is wrong, and what to do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction

from fanin.graph.structure import entries

PYTHON_RANDOM = (
    "forward draws numbers from Python's random or numpy.random, so each run may compute something"
    " else; call model.eval(), or draw them with torch"
)


def custom_function(name: str) -> str | None:
    """Refuse a call inside `torch.autograd.Function.forward`, whose name is not empty."""
    if not name:
        return None
    return (
        f"{name} is a torch.autograd.Function with a backward of its own, which is not supported;"
        " write it with torch functions, or pass is_leaf=... for its module"
    )


def arguments(values: Any) -> str | None:
    """Refuse generators, autocast, and tensors that are not supported."""
    for _, value in entries(values):
        if isinstance(value, torch.Generator):
            return (
                "it draws from a torch.Generator of its own, so each run draws other numbers; use"
                " the global generator, or call model.eval()"
            )
        if isinstance(value, Tensor):
            if torch.is_autocast_enabled(value.device.type):
                return (
                    "it runs under torch.autocast, which is not supported; record the model"
                    " without autocast, with images and weights of one dtype"
                )
            reason = tensor(value)
            if reason is not None:
                return reason
    return None


def tensor(value: Tensor) -> str | None:
    """Refuse tensors without versions or without strides."""
    if value.is_inference():
        return "it runs in torch.inference_mode(); use torch.no_grad() instead"
    try:
        value.untyped_storage()
    except NotImplementedError:
        return (
            "a tensor without strides is not supported: a sparse tensor, or one inside torch.vmap"
            " or another transformation of torch.func"
        )
    return None


def change(changed: Tensor, in_checkpoint: bool) -> str | None:
    """Refuse a change in place that autograd does not see."""
    if torch.is_grad_enabled() or in_checkpoint or not changed.requires_grad:
        return None
    return (
        "a tensor is changed in place inside torch.no_grad(), so its gradient is that of other"
        " values; use a new tensor"
    )


def unknown_tensor(value: Tensor) -> str | None:
    """Refuse a tensor that no recorded call computed, unless it may be a constant."""
    if isinstance(value.grad_fn, BackwardCFunction):
        return custom_function(type(value.grad_fn).__name__.removesuffix("Backward"))
    if value.grad_fn is not None:
        return (
            "a tensor comes from code that cannot be recorded, such as a scripted function or a C++"
            " extension; write it with torch functions"
        )
    if isinstance(value, nn.Parameter) or value.requires_grad:
        return (
            f"a weight of shape {tuple(value.shape)} is not in model.parameters(); create the layer"
            " or nn.Parameter in __init__, and keep it in an attribute, an nn.ModuleList or an"
            " nn.ParameterList"
        )
    return None
