"""Theory of the learning rate at which one step makes a ReLU's feature maps zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import unfold

from experiments.clip import BiasGradient
from experiments.inputs import prepared, probe_images
from experiments.schema import build_cell
from fanin.errors import FaninError
from fanin.inits import WeightShape

CIRCLE, CROSS = 1, 0  # labels
KERNEL = 3
CPU = torch.device("cpu")


@dataclass(frozen=True)
class SingleFilterTheory:
    """Theory of a one-channel convolution, ReLU and a linear layer with one output.

    If every pre-activation is positive, the ReLU is the identity and the logit is bilinear in the
    weights: z = sum over q of v_q (w . x_q + b) + c, with x_q the patch at position q. The weights
    w and v are independent, with the same mean. All results are expectations over draws.

    Parameters
    ----------
    patches
        Input patch of the filter at each position, with zero padding: `patches_of(images)`.
    mean
        Mean of each weight, in both layers.
    bias
        Mean of each bias.
    """

    patches: Float[Tensor, "image position tap"]
    mean: float
    bias: float = 0.0

    @property
    def feature_map(self) -> Float[Tensor, "image position"]:
        """Expected feature map of each image."""
        return self.mean * self.patches.sum(-1) + self.bias

    def killing_rate(self, logit_gradients: Float[Tensor, " image"], bias: BiasGradient) -> float:
        """Return the smallest learning rate at which one step makes all feature maps zero.

        Parameters
        ----------
        logit_gradients
            Derivative of the loss with respect to the logit of each image: (p - y) / n for an image
            in a batch of n, 0 for an image outside the batch.
        bias
            Gradient rule of the filter's bias.

        Returns
        -------
        float
            inf if the step increases a pre-activation.
        """
        filter_gradient = self.mean * torch.einsum("i,iqk->k", logit_gradients, self.patches)
        if bias == "own":
            bias_gradient = self.mean * self.patches.shape[1] * logit_gradients.sum()
        elif bias == "mean_of_weights":
            bias_gradient = filter_gradient.mean()
        else:
            bias_gradient = torch.zeros(()).double()
        decrease = self.patches @ filter_gradient + bias_gradient
        if (decrease <= 0).any():
            return float("inf")
        return float((self.feature_map / decrease).max())


def patches_of(
    images: Float[Tensor, "image channel height width"], kernel_size: int
) -> Float[Tensor, "image position tap"]:
    """Return the zero-padded patch of each image at each position, in float64.

    >>> patches_of(torch.ones(1, 3, 8, 8), 3).shape
    torch.Size([1, 64, 27])
    """
    return unfold(images.double(), kernel_size, padding=kernel_size // 2).transpose(1, 2)


def predicted_killing_rate(config: Mapping[str, Any]) -> float:
    """Predict at which learning rate the first step on the cross makes both feature maps zero.

    The predicted probability of label 1 is taken to round to 1 for the cross, as in the report.

    Raises
    ------
    FaninError
        The moments of the init's weights are not known.
    """
    cell = build_cell(config)
    data, scaling = prepared(cell, CPU)
    images = probe_images(cell, data, scaling)
    layer = cell.init.for_layer("conv1")
    shape = WeightShape(1, images.shape[1], (KERNEL, KERNEL))
    weight, bias = layer.weight_moments(shape), layer.bias_moments(shape)
    if weight is None or bias is None:
        raise FaninError("the moments of the init's weights are not known")
    theory = SingleFilterTheory(patches_of(images, KERNEL), float(weight.mean), float(bias.mean))
    on_cross = (data.train.y[: len(images)] == CROSS).double()
    return theory.killing_rate(on_cross, cell.clip.bias) / cell.clip.factors.get("conv1", 1.0)
