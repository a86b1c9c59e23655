"""Record of the inputs and outputs of a network's modules in a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules import batchnorm, conv, dropout, instancenorm, normalization, pooling

from fanin.activations import channels_per_unit
from fanin.models.layers import LocalResponseNorm, MeanOnly, SeededDropout
from fanin.models.scalars import Multiplier, ScalarBias

Layer = nn.Linear | conv._ConvNd  # weight layers, including transposed convolutions

# Modules that may run between a weight layer and its activation.
NORMALIZATIONS = (
    batchnorm._NormBase,
    instancenorm._InstanceNorm,
    normalization.LayerNorm,
    normalization.GroupNorm,
    MeanOnly,
)
SCALARS = (Multiplier, ScalarBias)
# Modules after a weight layer that are not activations.
NOT_ACTIVATIONS = (
    nn.Flatten,
    dropout._DropoutNd,
    SeededDropout,
    pooling._MaxPoolNd,
    pooling._AvgPoolNd,
    pooling._AdaptiveAvgPoolNd,
    pooling._AdaptiveMaxPoolNd,
    normalization.LocalResponseNorm,
    LocalResponseNorm,
)


@dataclass(frozen=True)
class LayerTrace:
    """Inputs and outputs of one weight layer on a batch, or of a sum or normalization of a graph.

    `activation` is the output of the elementwise module (or maxout) that follows the layer,
    directly or after a normalization or scalar. It is None if no such module follows, as before a
    residual sum. A function called in `forward` is not a module, so hooks cannot record it.
    `module` is None for an operation of a graph without weights (`fanin.probes.graph_trace`).
    """

    name: str
    module: Layer | None
    input: Float[Tensor, "image ..."]
    preactivation: Float[Tensor, "image unit ..."]
    activation: Float[Tensor, "image unit ..."] | None = None


def trace(
    model: nn.Module, images: Float[Tensor, "image ..."]
) -> tuple[list[LayerTrace], Float[Tensor, "image logit"]]:
    """Run the model once and record its weight layers, in the order in which they run.

    The recorded outputs stay in the autograd graph, so gradients with respect to them can be
    computed. The model and the images are not changed.
    """
    layers: list[LayerTrace] = []
    tracked: Tensor | None = None  # output of the last weight layer, its norm or its scalars

    def record(
        name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Any
    ) -> Tensor | None:
        nonlocal tracked
        if isinstance(module, Layer):
            layers.append(LayerTrace(name, module, inputs[0], output))
        elif tracked is None or not inputs or inputs[0] is not tracked:
            return None
        elif not isinstance(module, NORMALIZATIONS + SCALARS):
            tracked = None
            is_tensor = isinstance(output, Tensor)  # recurrent modules return tuples
            if isinstance(module, NOT_ACTIVATIONS) or not is_tensor:
                return None
            if not _keeps_units(module, inputs[0], output):
                return None
            layers[-1] = replace(layers[-1], activation=output)
            return output.clone()
        # Return a copy, because an in-place operation would overwrite the recorded tensor.
        tracked = output.clone()
        return tracked

    with forward_hooks(leaf_modules(model), record):
        logits = model(images.detach().requires_grad_().clone())
    return layers, logits


def _keeps_units(module: nn.Module, x: Tensor, y: Tensor) -> bool:
    """Return True if `x` and `y` have the shapes of the input and output of an activation.

    Maxout reduces the number of channels.
    """
    return y.numel() * channels_per_unit(module) == x.numel() and y.shape[2:] == x.shape[2:]


@contextmanager
def forward_hooks(
    modules: Mapping[str, nn.Module], hook: Callable[[str, nn.Module, Any, Any], Tensor | None]
) -> Iterator[None]:
    """Call `hook(name, module, inputs, output)` after each forward pass of one of the modules.

    If the hook returns a tensor, it replaces the module's output. Leaving the context removes the
    hooks.
    """
    handles = [m.register_forward_hook(partial(hook, name)) for name, m in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def leaf_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules without children by name, except empty `nn.Sequential` modules."""
    return {
        name: module
        for name, module in model.named_modules()
        if next(module.children(), None) is None and not isinstance(module, nn.Sequential)
    }
