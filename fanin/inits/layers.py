"""The layers of a model that an init scheme fills."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from fanin.inits.weight_shape import WeightLayer


@dataclass(frozen=True)
class LayerPlace:
    """Which layer of the net it is: for schemes whose biases depend on that (AlexNet 2012)."""

    name: str
    is_output: bool = False


def weight_layers(model: nn.Module) -> dict[str, WeightLayer]:
    """The linear and convolution layers by name, in the order in which they were registered.

    For an `nn.Sequential` that is the order of the forward pass.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 10))
    >>> list(weight_layers(net))
    ['0', '3']
    """
    return {
        name: module for name, module in model.named_modules() if isinstance(module, WeightLayer)
    }
