"""The user's own network as a model: a class or function that returns an `nn.Module`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

from fanin.errors import ConfigError
from fanin.models.base import Activation, ImageShape

PASSED = ("input_shape", "n_outputs", "activation")
"""Parameters of the class or function that `ModuleModel.build` passes."""


@dataclass(frozen=True)
class ModuleModel:
    """Model whose network is made by a class or function of the user.

    Parameters
    ----------
    function
        An `nn.Module` class, or a function that returns a module.
    arguments
        Keyword arguments.
    passed
        Names of the parameters in `PASSED` that the function accepts.

    Examples
    --------
    >>> def net(n_outputs, width):
    ...     return nn.Sequential(nn.Flatten(), nn.LazyLinear(width), nn.Linear(width, n_outputs))
    >>> ModuleModel(net, {"width": 8}, ("n_outputs",)).build((1, 2, 2), 10, nn.ReLU)[1]
    Linear(in_features=4, out_features=8, bias=True)
    """

    function: Callable[..., nn.Module]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    passed: tuple[str, ...] = ()

    def build(self, shape: ImageShape, n_outputs: int, activation: Activation) -> nn.Module:
        """Build the network; the shapes of lazy layers are inferred from images of `shape`."""
        available = dict(zip(PASSED, (shape, n_outputs, activation), strict=True))
        passed = {name: available[name] for name in self.passed}
        network = self.function(**self.arguments, **passed)
        if not isinstance(network, nn.Module):
            name = getattr(self.function, "__name__", self.function)
            kind = type(network).__name__
            raise ConfigError(f"model: {name} must return a torch.nn.Module, got a {kind}")
        if any(is_lazy(parameter) for parameter in network.parameters()):
            with torch.no_grad():
                network.eval()(torch.zeros(2, *shape))
            network.train()
        return network


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Apply `use_batch_statistics` within a `with` block."""
    layers = [m for m in model.modules() if isinstance(m, _NormBase) and m.track_running_stats]
    saved = [(layer.running_mean, layer.running_var) for layer in layers]
    use_batch_statistics(model)
    try:
        yield
    finally:
        for layer, (mean, var) in zip(layers, saved, strict=True):
            layer.running_mean, layer.running_var = mean, var
            layer.track_running_stats = True


def use_batch_statistics(model: nn.Module) -> None:
    """Let batch normalizations use the current batch, also in evaluation, in place.

    They do so in training. Probes and theory therefore describe the network that is trained.
    """
    for layer in model.modules():
        if isinstance(layer, _NormBase) and layer.track_running_stats:
            layer.running_mean = layer.running_var = None
            layer.track_running_stats = False
