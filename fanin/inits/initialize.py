"""Draw a model's weights and biases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fanin.errors import ConfigError
from fanin.inits.init import Init
from fanin.inits.layers import weight_layers
from fanin.inits.scheme import CalibratedScheme
from fanin.inits.weight_shape import WeightShape


@torch.no_grad()
def initialize(
    model: nn.Module,
    init: Init,
    seed_of: Callable[[str], torch.Generator],
    images: Float[Tensor, "image channel height width"] | None = None,
) -> None:
    """Draw all weights and biases of a model's linear and convolution layers, in place.

    Every tensor has a random stream of its own, named after it, so that another depth or another
    scheme in one layer changes no other layer's draw. Other layers keep what torch gave them
    (normalization: weight 1, bias 0).

    Where a scheme calibrates on data (LSUV), the gain multiplies the calibrated weights at the
    end, so that it doesn't take part in what calibration evens out.

    Parameters
    ----------
    model
        Any module.
    init
        How to draw each layer.
    seed_of
        The generator for a tensor's name, such as `conv1.weight`.
    images
        A batch as the model takes it, for schemes that calibrate on data.

    Raises
    ------
    ConfigError
        An override names a layer that the model lacks; a scheme calibrates, and no images are
        given; a scheme's sample has the wrong shape.

    Examples
    --------
    >>> from fanin.inits import Constant
    >>> net = nn.Sequential(nn.Linear(2, 1))
    >>> initialize(net, Init(Constant(0.5), bias=1.0), lambda name: torch.Generator())
    >>> net[0].weight.tolist(), net[0].bias.tolist()
    ([[0.5, 0.5]], [1.0])
    """
    modules = weight_layers(model)
    layers = init.for_model(model)
    calibrated: dict[str, CalibratedScheme] = {}
    for name, layer in layers.items():
        module, weight = modules[name], WeightShape.of(modules[name])
        if isinstance(layer.scheme, CalibratedScheme):
            calibrated[name] = layer.scheme
            layer = replace(layer, gain=1.0)
        module.weight.copy_(layer.sample_weight(weight, seed_of(f"{name}.weight")))
        if module.bias is not None:
            module.bias.copy_(layer.sample_bias(weight, seed_of(f"{name}.bias")))
    if not calibrated:
        return
    if images is None:
        kinds = sorted({type(scheme).__name__ for scheme in calibrated.values()})
        raise ConfigError(f"init: {', '.join(kinds)} calibrates on data, and no images were given")
    # One layer at a time, in forward order, also where layers differ in the scheme's settings.
    for name, scheme in calibrated.items():
        scheme.calibrate(model, images, [name])
    for name in calibrated:
        modules[name].weight.mul_(layers[name].gain)
