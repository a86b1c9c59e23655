"""Normalizations as what they are to a wide layer at initialization: a shift and a scale.

Batch normalization looks at one channel at a time, and a sample of the field is one: the module
itself is run on it. Layer normalization looks at all channels of an image, of which there are
infinitely many: what it divides by is no random number, and answers to no single channel.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fanin.theory.walk import UnpredictableLayer

OVER_CHANNELS = (nn.GroupNorm, nn.LayerNorm)


class OverImages(nn.Module):
    """Each channel to mean 0 and variance 1 over images and positions (Ioffe & Szegedy 2015).

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, 50.0], [3.0, 10.0]])
    >>> OverImages(eps=1e-9)(x).round().tolist()
    [[-1.0, 1.0], [1.0, -1.0]]
    """

    def __init__(self, eps: float, scale: float = 1.0, shift: float = 0.0) -> None:
        super().__init__()
        self.eps, self.scale, self.shift = eps, scale, shift

    def forward(self, x: Float[Tensor, "image channel *position"]) -> Tensor:
        """Return the channels standardized."""
        made = F.batch_norm(x, None, None, training=True, eps=self.eps)
        return self.scale * made + self.shift


class OverChannels(nn.Module):
    """Each image to mean 0 and variance 1 over channels and positions (Ba et al. 2016).

    The statistics are those of infinitely many channels, so no derivative goes through them.
    """

    def __init__(self, eps: float, scale: float = 1.0, shift: float = 0.0) -> None:
        super().__init__()
        self.eps, self.scale, self.shift = eps, scale, shift

    def forward(self, x: Float[Tensor, "image world channel *position"]) -> Tensor:
        """Return the images standardized, in each world by itself."""
        seen, axes = x.detach(), list(range(2, x.ndim))
        mean = seen.mean(axes, keepdim=True)
        var = seen.var(axes, correction=0, keepdim=True)
        return self.scale * (x - mean) * (var + self.eps).rsqrt() + self.shift


def standardizing(name: str, module: nn.Module) -> OverImages | OverChannels | None:
    """Read a normalization that looks at the images at hand; None for any other module.

    Raises
    ------
    UnpredictableLayer
        Its channels are scaled or shifted differently, or it looks at a part of them.
    """
    if isinstance(module, _BatchNorm) and looks_at_the_batch(module):
        return OverImages(module.eps, *_affine(name, module))
    if isinstance(module, nn.GroupNorm):
        if module.num_groups != 1:
            raise UnpredictableLayer(
                name, f"GroupNorm of {module.num_groups} groups: only of one group, over all"
            )
        return OverChannels(module.eps, *_affine(name, module))
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1:
        return OverChannels(module.eps, *_affine(name, module))
    return None


def looks_at_the_batch(module: nn.Module) -> bool:
    """Whether a batch normalization uses the statistics of the images at hand."""
    return isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)


def _affine(name: str, module: nn.Module) -> tuple[float, float]:
    return _one_number(name, module.weight, 1.0), _one_number(name, module.bias, 0.0)


def _one_number(name: str, values: object, default: float) -> float:
    if not isinstance(values, Tensor) or values.is_meta:
        return default
    values = values.detach()
    first = float(values.flatten()[0])
    if bool((values != first).any()):
        raise UnpredictableLayer(name, "it scales or shifts its channels differently")
    return first
