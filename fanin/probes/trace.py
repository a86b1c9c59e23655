"""One forward pass with every weight layer's input, pre-activation and activation kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules import batchnorm, conv, dropout, instancenorm, normalization, pooling

from fanin.activations import pieces_of
from fanin.models.dropout import SeededDropout
from fanin.models.lrn import LocalResponseNorm
from fanin.models.norms import MeanOnly

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
    """What one weight layer saw and made on a batch.

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

    handles = [m.register_forward_hook(partial(record, name)) for name, m in _leaves(model)]
    try:
        logits = model(images.detach().requires_grad_().clone())
    finally:
        for handle in handles:
            handle.remove()
    return layers, logits


def _unit_by_unit(module: nn.Module, x: Tensor, y: Tensor) -> bool:
    """Whether shapes are those of an activation: maxout leaves one channel of several."""
    return y.numel() * pieces_of(module) == x.numel() and y.shape[2:] == x.shape[2:]


def _leaves(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules that compute; an empty Sequential only hands on."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if next(module.children(), None) is None and not isinstance(module, nn.Sequential)
    ]
