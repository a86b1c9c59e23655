"""Layer-sequential unit variance (LSUV): weights rescaled on data."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import isfinite
from typing import Annotated

import torch
from jaxtyping import Float, Float64
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.func import functional_call

from fanin.inits.orthogonal import Orthogonal
from fanin.inits.weight_shape import WeightShape, weight_layers
from fanin.probes.trace import forward_hooks


@dataclass(frozen=True)
class Lsuv:
    """Orthogonal weights, rescaled until each layer's output has variance 1 (Mishkin & Matas 2016).

    `sample` draws the weights of `Orthogonal`, one matrix for all groups; `calibrate` rescales the
    weights of a whole model. The final scale depends on the images, so `moments` are unknown.

    Parameters
    ----------
    tolerance
        Largest accepted difference between the variance and 1.
    max_iterations
        Largest number of rescalings of one layer.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(4, 8))
    >>> images = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    >>> Lsuv().calibrate(net, images)
    >>> bool(abs(net(images).var(correction=0) - 1) < 0.1)
    True
    """

    tolerance: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1
    max_iterations: PositiveInt = 10

    def moments(self, weight: WeightShape) -> None:
        return None

    def sample(
        self, weight: WeightShape, generator: torch.Generator
    ) -> Float64[Tensor, "out in *kernel"]:
        return Orthogonal().sample(weight, generator)

    @torch.no_grad()
    def calibrate(
        self,
        model: nn.Module,
        images: Float[Tensor, "image channel height width"],
        layers: Collection[str] | None = None,
    ) -> None:
        """Rescale the weights in place, layer by layer (Mishkin & Matas 2016, algorithm 1).

        As in the paper, the variance is over images, units and positions. If the variance of a
        layer is 0 or not finite, its weights are not rescaled, because no factor gives it a
        variance of 1. The model runs in its current mode; its buffers (batch norm's running
        averages) and torch's global random state (dropout) are restored afterwards.

        Parameters
        ----------
        model
            Any module; its weight layers are rescaled in the order of registration.
        images
            Input batch of the model: scaled, in its dtype, on its device.
        layers
            Names of the layers to rescale; None rescales all.
        """
        for name, module in weight_layers(model).items():
            if layers is not None and name not in layers:
                continue
            for _ in range(self.max_iterations):
                variance = _output_variance(model, module, images)
                if not isfinite(variance) or variance == 0 or abs(variance - 1) < self.tolerance:
                    break
                module.weight.div_(variance**0.5)


def _output_variance(model: nn.Module, module: nn.Module, images: Tensor) -> float:
    variances = []

    def measure(_name: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        variances.append(output.double().var(correction=0).item())

    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with (
        forward_hooks({"": module}, measure),
        torch.random.fork_rng([images.device] if images.is_cuda else []),
    ):
        torch.manual_seed(0)  # The same dropout masks in every call.
        functional_call(model, buffers, (images,))
    # A layer that the forward pass does not run has no output to scale.
    return variances[-1] if variances else 0.0
