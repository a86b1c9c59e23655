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

Layer = nn.Linear | conv._ConvNd  # what has weights: transposed convolutions too

# A normalization may stand between a weight layer and its activation; these others may not.
NORMALIZATIONS = (
    batchnorm._NormBase,
    instancenorm._InstanceNorm,
    normalization.LayerNorm,
    normalization.GroupNorm,
    MeanOnly,
)
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
    """Inputs and outputs of one weight layer on a batch.

    `activation` is the output of the elementwise module (or maxout) that takes the layer's output,
    directly or through a normalization, where there is one (a function called in `forward` is
    none: a hook can't see it).
    """

    name: str
    module: Layer
    input: Float[Tensor, "image ..."]
    preactivation: Float[Tensor, "image unit ..."]
    activation: Float[Tensor, "image unit ..."] | None = None


def trace(
    model: nn.Module, images: Float[Tensor, "image ..."]
) -> tuple[list[LayerTrace], Float[Tensor, "image logit"]]:
    """Run the model once and keep what its weight layers saw, in the order they ran.

    The outputs stay in the autograd graph, so gradients with respect to any of them can be asked
    for. Neither the model nor the images are changed.
    """
    layers: list[LayerTrace] = []
    followed: Tensor | None = None  # from the last weight layer, on its way to an activation

    def record(
        name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor
    ) -> Tensor | None:
        nonlocal followed
        if isinstance(module, Layer):
            layers.append(LayerTrace(name, module, inputs[0], output))
        elif followed is None or not inputs or inputs[0] is not followed:
            return None
        elif not isinstance(module, NORMALIZATIONS):
            followed = None
            if isinstance(module, NOT_ACTIVATIONS) or not _unit_by_unit(module, inputs[0], output):
                return None
            layers[-1] = replace(layers[-1], activation=output)
            return output.clone()
        # What goes on is a copy: an in-place operation would overwrite what was kept.
        followed = output.clone()
        return followed

    with forward_hooks(leaf_modules(model), record):
        logits = model(images.detach().requires_grad_().clone())
    return layers, logits


def _unit_by_unit(module: nn.Module, x: Tensor, y: Tensor) -> bool:
    """Return True if shapes are those of an activation: maxout leaves one channel of several."""
    return y.numel() * channels_per_unit(module) == x.numel() and y.shape[2:] == x.shape[2:]


@contextmanager
def forward_hooks(
    modules: Mapping[str, nn.Module], hook: Callable[[str, nn.Module, Any, Any], Tensor | None]
) -> Iterator[None]:
    """Call `hook(name, module, inputs, output)` whenever one of the modules has run.

    A tensor that the hook returns replaces the module's output. The hooks go when the block ends.
    """
    handles = [m.register_forward_hook(partial(hook, name)) for name, m in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def leaf_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that compute, by name; an empty Sequential only hands on."""
    return {
        name: module
        for name, module in model.named_modules()
        if next(module.children(), None) is None and not isinstance(module, nn.Sequential)
    }
