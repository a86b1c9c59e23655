"""`record`: run a model once, record its graph, and check it on the same and on other images."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fanin.graph.check import check
from fanin.graph.errors import GraphError
from fanin.graph.graph import Graph
from fanin.graph.leaves import is_leaf as is_layer
from fanin.graph.runs import Runs
from fanin.images import check_model, to_images


def record(
    model: nn.Module,
    images: Float[Tensor, "image ..."],
    is_leaf: Callable[[nn.Module], bool] = is_layer,
) -> Graph:
    """Record the computation graph of a model by running it on images.

    The model runs as usual, with any Python code. Decisions that depend on shapes are fixed for
    images of this shape. The graph is replayed on these images and on others of the same shape,
    and each value must be the model's own up to rounding. The model, its gradients and the global
    random generators are left as they were.

    Parameters
    ----------
    model
        Any module whose `forward` takes one tensor, in the mode (training or evaluation) to record.
    images
        A batch of images, of shape (images, ...).
    is_leaf
        Function that returns True for modules that become one node. Other modules are entered. By
        default the layers of `torch.nn`.

    Raises
    ------
    GraphError
        The model cannot be recorded, or computes something else on other images. The message names
        the module, the user's line and what to do.
    InputError
        `model` or `images` is not valid.

    Examples
    --------
    >>> class Block(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.conv = nn.Conv2d(4, 4, 3, padding=1)
    ...     def forward(self, x):
    ...         return torch.relu(x + self.conv(x))
    >>> graph = record(Block(), torch.rand(2, 4, 8, 8))
    >>> [node.operation for node in graph.nodes]
    ['input', 'conv2d', 'add', 'relu']
    >>> graph.nodes[2].inputs == (graph.nodes[0], graph.nodes[1])
    True
    """
    check_model(model)
    _check_supported(model)
    if torch.is_inference_mode_enabled():
        raise GraphError("call this outside torch.inference_mode(), which keeps no graph")
    images = to_images(images)
    runs = Runs(model, is_leaf)
    recorded = replace(runs.record(images), values=[])  # frees the memory of the values
    check(runs, recorded, images)
    return recorded.graph


def _check_supported(model: nn.Module) -> None:
    for path, module in model.named_modules():
        kind = type(module).__name__
        if isinstance(module, torch.jit.ScriptModule):
            raise GraphError("it is scripted; use the module from which it was made", path)
        if kind == "OptimizedModule":
            raise GraphError("it is compiled; use the module from which it was made", path)
        if getattr(module, "_compiled_call_impl", None) is not None:
            raise GraphError("module.compile() was called; create it without", path)
        if module._backward_hooks or module._backward_pre_hooks:
            raise GraphError("it has a backward hook, which may change gradients; remove it", path)
    parameters = inspect.signature(model.forward).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if len(required) > 1 or any(p.kind not in positional for p in parameters if p.name in required):
        names = ", ".join(required)
        raise GraphError(
            f"its forward needs several inputs ({names}), and only one is supported; write a module"
            " whose forward takes the images and passes the other inputs"
        )
