"""One filter, ReLU, one logit: a first step and a curvature in closed form.

While every pre-activation is positive the ReLU does nothing, and the logit is bilinear,
z = sum over q of v_q (w . x_q + b) + c, with x_q the patch at position q. Weights w and v are
independent, each of one mean and variance; what is said here is the expectation over their draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import unfold

from experiments.clip import BiasGradient

Layer = Literal["filter", "linear"]


@dataclass(frozen=True)
class OneFilter:
    """A convolution of one channel under a linear layer of one output, both drawn alike.

    Parameters
    ----------
    patches
        What the filter sees at each position, zero padding included: `patches_of(images)`.
    mean, var
        Of every weight.
    bias
        Mean of every bias.
    """

    patches: Float[Tensor, "image position tap"]
    mean: float
    var: float
    bias: float = 0.0

    @property
    def feature_map(self) -> Float[Tensor, "image position"]:
        """The expected feature map."""
        return self.mean * self.patches.sum(-1) + self.bias

    @property
    def logits(self) -> Float[Tensor, " image"]:
        """The expected logits."""
        return self.mean * self.feature_map.sum(-1) + self.bias

    def killing_rate(self, pulls: Float[Tensor, " image"], bias: BiasGradient) -> float:
        """Smallest learning rate at which one step leaves every feature map black.

        Parameters
        ----------
        pulls
            The loss's derivative with respect to each image's logit: p - y of an image fed alone,
            (p - y) / n of n fed together, 0 of one that is not fed.
        bias
            Which gradient the filter's bias gets.

        Returns
        -------
        float
            Infinite where the step makes some map brighter.
        """
        filter_gradient = self.mean * torch.einsum("i,iqk->k", pulls, self.patches)
        if bias == "own":
            bias_gradient = self.mean * self.patches.shape[1] * pulls.sum()
        elif bias == "mean_of_weights":
            bias_gradient = filter_gradient.mean()
        else:
            bias_gradient = torch.zeros(()).double()
        taken_off = self.patches @ filter_gradient + bias_gradient
        if (taken_off <= 0).any():
            return float("inf")
        return float((self.feature_map / taken_off).max())

    def pulls(self, labels: Float[Tensor, " image"]) -> Float[Tensor, " image"]:
        """(p - y) / n of the logistic loss with all images fed together, at the expected logits."""
        return (self.logits.sigmoid() - labels) / len(labels)

    def curvature(self, layer: Layer) -> float:
        """Largest eigenvalue of a layer's block of the Hessian of the mean logistic loss.

        The block is p (1 - p) times the outer product of the logit's derivative with itself,
        averaged over the images; exact, for the logit is linear in each layer's weight. p is taken
        at the expected logit.
        """
        p = self.logits.sigmoid()
        root = (p * (1 - p) / len(p)).sqrt()
        gram = self.derivative_gram(layer)
        return float(torch.linalg.eigvalsh(root[:, None] * gram * root)[-1])

    def derivative_gram(self, layer: Layer) -> Float[Tensor, "image image"]:
        """Expected inner products of the derivatives of the images' logits."""
        x = self.patches
        # Both derivatives are sums of products of a weight and a pixel: a mean, and a scatter.
        scatter = self.var * torch.einsum("iqk,jqk->ij", x, x)
        if layer == "filter":
            expected = self.mean * x.sum(1)
            return expected @ expected.T + scatter
        return self.feature_map @ self.feature_map.T + scatter

    def curvature_ratio(self) -> float:
        """The filter's curvature over the linear layer's, for one image.

        About (number of positions) / (taps of the filter) where the mean of the weights rules, and
        1 where it is 0: there only the scatter is left, which is the same of both.
        """
        filters, linear = (self.derivative_gram(layer) for layer in ("filter", "linear"))
        return float((filters.diagonal() / linear.diagonal()).mean())


def patches_of(
    images: Float[Tensor, "image channel height width"], kernel_size: int
) -> Float[Tensor, "image position tap"]:
    """What a filter of that size sees at each position, zeros around the image; float64.

    >>> patches_of(torch.ones(1, 3, 8, 8), 3).shape
    torch.Size([1, 64, 27])
    """
    return unfold(images.double(), kernel_size, padding=kernel_size // 2).transpose(1, 2)
