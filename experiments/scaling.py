"""The `scaling` group: map pixel values to network inputs.

A scaled image is scale * (x - center) / spread + shift. The method computes center and spread from
the *training* images; `scale` and `shift` are keys of all methods. Images stay uint8 until they
are batched.

Corrupted values get no special treatment: one NaN among the training images makes all images NaN in
its channel (`standardize`) or pixel (`per_feature_minmax`, `pixel_mean`), and an outlier compresses
the range of all other values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Num
from pydantic import FiniteFloat
from torch import Tensor

CHUNK = 1024  # images converted to float64 at once while averaging: 25 MB for CIFAR

Images = Num[Tensor, "image channel height width"]
Statistic = Float[Tensor, "#channel #height #width"]


@runtime_checkable
class Method(Protocol):
    """Protocol of a scaling method (an option of `conf/scaling/`)."""

    def fit(self, train_x: Images, full_scale: float) -> tuple[Statistic, Statistic]:
        """Return center and spread (float64, broadcastable to an image)."""


@dataclass(frozen=True)
class Raw:
    """No scaling: x, from 0 to 255 for pictures."""

    def fit(self, train_x: Images, full_scale: float) -> tuple[Statistic, Statistic]:
        """Return center 0 and spread 1."""
        return _number(0.0), _number(1.0)


@dataclass(frozen=True)
class Unit:
    """Scaling to [0, 1]: x / full_scale."""

    def fit(self, train_x: Images, full_scale: float) -> tuple[Statistic, Statistic]:
        """Return center 0 and spread full_scale."""
        return _number(0.0), _number(full_scale)


@dataclass(frozen=True)
class Signed:
    """Scaling to [-1, 1]: 2 x / full_scale - 1."""

    def fit(self, train_x: Images, full_scale: float) -> tuple[Statistic, Statistic]:
        """Return full_scale / 2 as the center and as the spread."""
        return _number(full_scale / 2), _number(full_scale / 2)


@dataclass(frozen=True)
class Standardize:
    """Scaling to mean 0 and standard deviation 1 per channel; a constant channel becomes 0."""

    def fit(self, train_x: Images, full_scale: float) -> tuple[Statistic, Statistic]:
        """Return the mean and population standard deviation of each channel."""
        mean = _mean(train_x, lambda x: x.mean((2, 3), keepdim=True))
        variance = _mean(train_x, lambda x: (x - mean).square().mean((2, 3), keepdim=True))
        std = variance.sqrt()
        return mean, torch.where(std == 0, 1.0, std)


@dataclass(frozen=True)
class PerFeatureMinmax:
    """Scaling of each pixel's training range to [0, 1]; a pixel constant in training becomes 0."""

    def fit(self, train_x: Images, full_scale: float) -> tuple[Statistic, Statistic]:
        """Return each pixel's minimum and range."""
        low, high = train_x.amin(0).double(), train_x.amax(0).double()
        # An infinite spread makes a constant pixel 0 in test images too, where it may vary.
        return low, torch.where(high == low, torch.inf, high - low)


@dataclass(frozen=True)
class PixelMean:
    """Subtraction of the mean training image: (x - mean image) / full_scale."""

    def fit(self, train_x: Images, full_scale: float) -> tuple[Statistic, Statistic]:
        """Return the mean image as center and full_scale as spread."""
        return _mean(train_x, lambda x: x), _number(full_scale)


@dataclass(frozen=True)
class FittedScaling:
    """A scaling with its statistics: scale * (x - center) / spread + shift."""

    center: Statistic
    spread: Statistic
    scale: float | Tensor
    shift: float | Tensor

    def to(self, device: torch.device, dtype: torch.dtype = torch.float64) -> FittedScaling:
        """Return a copy with its statistics on a device, in the precision for images of a dtype."""
        wide = torch.promote_types(dtype, torch.float32)
        center, spread = self.center.to(device, wide), self.spread.to(device, wide)
        return replace(self, center=center, spread=spread)

    def apply(
        self, x: Images, dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "image channel height width"]:
        """Scale images of any dtype on their device; the result has dtype `dtype`.

        Computes in float64 if `dtype` is float64, otherwise in float32, because bfloat16 has too
        few bits for `x - center`.
        """
        wide = torch.promote_types(dtype, torch.float32)
        center, spread = self.center.to(x.device, wide), self.spread.to(x.device, wide)
        scaled = (x.to(wide) - center).div_(spread)
        if isinstance(self.scale, Tensor) or (self.scale, self.shift) != (1.0, 0.0):
            scaled = _rounded(self.scale, wide) * scaled + _rounded(self.shift, wide)
        return scaled.to(dtype)


@dataclass(frozen=True)
class Scaling:
    """A scaling method and the keys common to all methods.

    Parameters
    ----------
    method
        Computes center and spread.
    scale, shift
        Applied after the method: scale * (x - center) / spread + shift.

    Examples
    --------
    >>> x = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1)
    >>> Scaling(Signed(), shift=3.0).fit(x, full_scale=255).apply(x).flatten()
    tensor([2., 4.])
    """

    method: Method
    scale: FiniteFloat = 1.0
    shift: FiniteFloat = 0.0

    def fit(self, train_x: Images, full_scale: float) -> FittedScaling:
        """Compute the statistics of the training images in float64.

        Parameters
        ----------
        train_x
            The training images, uint8 or float.
        full_scale
            Largest possible pixel value: 255 for pictures, 1 for noise.
        """
        center, spread = self.method.fit(train_x, full_scale)
        return FittedScaling(center, spread, self.scale, self.shift)


def _rounded(factor: float | Tensor, dtype: torch.dtype) -> float | Tensor:
    """Round a tensor to `dtype`, as torch does with a Python number."""
    return factor.to(dtype) if isinstance(factor, Tensor) else factor


def _number(value: float) -> Statistic:
    return torch.full((1, 1, 1), value, dtype=torch.float64)


def _mean(x: Images, of: Callable[[Tensor], Tensor]) -> Statistic:
    """Return the mean of `of(images)` over images, computed in float64 and in chunks."""
    total = sum(of(chunk.double()).sum(0) for chunk in x.split(CHUNK))
    return torch.as_tensor(total) / len(x)
