"""Checks of calls that no rule supports, whatever the operation."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fanin.graph import Node
from fanin.theory.graph.build import Builder

DROPOUT = ("dropout", "dropout1d", "dropout2d", "dropout3d")
# Weight layers, and operations that read the type or the shape of a second tensor only.
USE_WEIGHTS = (
    *("linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d"),
    *("conv_transpose3d", "to", "expand_as", "reshape_as"),
)


def check_call(builder: Builder, node: Node) -> None:
    """Raise UnpredictableLayer for random numbers, numbers from weights, and stopped gradients."""
    drawn = _random_source(node)
    if drawn is not None and node.operation not in DROPOUT:
        raise builder.refuse(drawn, "it draws random numbers", eval_advice(builder, drawn))
    _refuse_weights(builder, node)
    if node.operation != "detach" and _stops_gradient(node):
        raise builder.refuse(node, "no gradient flows through it, which is not supported")


def _random_source(node: Node) -> Node | None:
    """Return the call that draws random numbers for a node or its constants, if any."""
    return next((value for value in _with_constants(node) if value.is_random), None)


def _refuse_weights(builder: Builder, node: Node) -> None:
    """Raise an error if a number in a call is computed from the weights of a layer."""
    if node.operation in USE_WEIGHTS:
        return
    for value in _with_constants(node):
        layer = builder.drawn.get(id(value.target)) if value.kind == "parameter" else None
        if layer is not None:
            raise builder.refuse(
                node,
                f"it uses a number that is computed from {value.path}, and an init draws the"
                f" weights of layer {layer} anew",
            )


def _with_constants(node: Node) -> Iterator[Node]:
    """Yield a node and all nodes from which its constants are computed."""
    queue, seen = [node], {node}
    for value in queue:
        yield value
        constants = [x for x in value.inputs if not x.depends_on_images and x not in seen]
        queue += constants
        seen |= set(constants)


def _stops_gradient(node: Node) -> bool:
    """Return True if the node runs in `torch.no_grad()`, or rounds to integers.

    Comparisons such as `x > 0` are supported.
    """
    is_bool = node.dtype == torch.bool
    receives = any(value.depends_on_images and value.requires_grad for value in node.inputs)
    return receives and not is_bool and not node.requires_grad


def eval_advice(builder: Builder, node: Node) -> str:
    """Return how to switch off a random call; evaluation mode also changes batch normalization."""
    if node.kind == "module":
        return f"call model.get_submodule({node.path!r}).eval()"
    advice = "call model.eval(), which also changes batch normalization"
    if node.operation not in DROPOUT:
        return advice
    module = builder.modules.get(node.path)
    if module is not None and not module.training:
        return "pass training=self.training"
    return f"pass training=self.training and {advice}, or use nn.Dropout and its eval()"
