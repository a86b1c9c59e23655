"""One forward pass with every weight layer's input, pre-activation and activation kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules import batchnorm, dropout, instancenorm, normalization, pooling

from experiments.inits import WeightLayer
from experiments.models.dropout import SeededDropout
from experiments.models.norms import MeanOnly

# A normalization may stand between a weight layer and its activation; these others may not.
NORMALIZATIONS = (
    batchnorm._NormBase,
    instancenorm._InstanceNorm,
    normalization.LayerNorm,
    normalization.GroupNorm,
    MeanOnly,
)
NOT_ACTIVATIONS = (
    nn.Linear,
    nn.modules.conv._ConvNd,
    nn.Flatten,
    dropout._DropoutNd,
    SeededDropout,
    pooling._MaxPoolNd,
    pooling._AvgPoolNd,
    pooling._AdaptiveAvgPoolNd,
    pooling._AdaptiveMaxPoolNd,
    normalization.LocalResponseNorm,
)


@dataclass(frozen=True)
class LayerTrace:
    """What one weight layer saw and made on a batch.

    `activation` is the output of the elementwise module that follows, where a module does (not a
    function called in `forward`, which a hook can't see).
    """

    name: str
    module: WeightLayer
    input: Float[Tensor, "image ..."]
    preactivation: Float[Tensor, "image unit ..."]
    activation: Float[Tensor, "image unit ..."] | None = None


def trace(
    model: nn.Module, images: Float[Tensor, "image ..."]
) -> tuple[list[LayerTrace], Float[Tensor, "image logit"]]:
    """Run the model once and keep what its weight layers saw, in the order they ran.

    The outputs stay in the autograd graph, so gradients with respect to any of them can be asked
    for. The model is left as it was found.
    """
    layers: list[LayerTrace] = []
    awaiting = False  # the last weight layer still waits for its activation

    def record(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal awaiting
        if isinstance(module, WeightLayer):
            layers.append(LayerTrace(name, module, inputs[0], output))
            awaiting = True
        elif awaiting and not isinstance(module, NORMALIZATIONS):
            awaiting = False
            if output.shape == inputs[0].shape and not isinstance(module, NOT_ACTIVATIONS):
                layers[-1] = replace(layers[-1], activation=output)

    leaves = [(name, m) for name, m in model.named_modules() if not any(m.children())]
    handles = [m.register_forward_hook(partial(record, name)) for name, m in leaves]
    try:
        with _out_of_place(model):
            logits = model(images.detach().requires_grad_())
    finally:
        for handle in handles:
            handle.remove()
    return layers, logits


@contextmanager
def _out_of_place(model: nn.Module) -> Iterator[None]:
    """An in-place activation would overwrite the pre-activation that was kept."""
    changed = [m for m in model.modules() if getattr(m, "inplace", False) is True]
    for module in changed:
        module.inplace = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in changed:
            module.inplace = True  # type: ignore[assignment]
