"""`scaling`: how pixel values become a network's inputs.

Every method is x -> (x - center) / spread, with statistics of the *training* images alone; the
common keys then give scale * that + shift. Images stay uint8 until a batch is taken.

Corrupted values are not treated specially: one NaN among the training images makes
`standardize`, `per_feature_minmax` and `pixel_mean` NaN for its channel or pixel, and an outlier
squeezes the rest, as happens to people.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Num
from pydantic import FiniteFloat
from torch import Tensor

CHUNK = 1024  # images turned to float64 at once while averaging: 25 MB for CIFAR

Images = Num[Tensor, "image channel height width"]
Statistic = Float[Tensor, "#channel #height #width"]


@runtime_checkable
class Method(Protocol):
    """A scaling method: fits `center` and `spread` (float64, broadcastable to an image)."""

    def fit(self, train_x: Images, full_scale: float) -> tuple[Statistic, Statistic]:
        """Return center and spread of the training images."""


@dataclass(frozen=True)
class Raw:
    """As they are: 0..255."""

    def fit(self, train_x: Images, full_scale: float) -> tuple[Statistic, Statistic]:
        """Center 0, spread 1."""
        return _number(0.0), _number(1.0)


@dataclass(frozen=True)
class Unit:
    """[0, 1]: x / full_scale."""

    def fit(self, train_x: Images, full_scale: float) -> tuple[Statistic, Statistic]:
        """Center 0, spread full_scale."""
        return _number(0.0), _number(full_scale)


@dataclass(frozen=True)
class Signed:
    """[-1, 1]: 2 x / full_scale - 1."""

    def fit(self, train_x: Images, full_scale: float) -> tuple[Statistic, Statistic]:
        """Center and spread half of full_scale."""
        return _number(full_scale / 2), _number(full_scale / 2)


@dataclass(frozen=True)
class Standardize:
    """Mean 0 and standard deviation 1 in every channel; a constant channel becomes 0."""

    def fit(self, train_x: Images, full_scale: float) -> tuple[Statistic, Statistic]:
        """Each channel's mean and (population) standard deviation."""
        mean = _mean(train_x, lambda x: x.mean((2, 3), keepdim=True))
        variance = _mean(train_x, lambda x: (x - mean).square().mean((2, 3), keepdim=True))
        std = variance.sqrt()
        return mean, torch.where(std == 0, 1.0, std)


@dataclass(frozen=True)
class PerFeatureMinmax:
    """Each pixel's training range to [0, 1]; a pixel constant in training becomes 0."""

    def fit(self, train_x: Images, full_scale: float) -> tuple[Statistic, Statistic]:
        """Each pixel's smallest value, and its range."""
        least, most = train_x.amin(0).double(), train_x.amax(0).double()
        # An infinite spread sends a constant pixel to 0 in test images too, where it may vary.
        return least, torch.where(most == least, torch.inf, most - least)


@dataclass(frozen=True)
class PixelMean:
    """x / full_scale minus the mean training image."""

    def fit(self, train_x: Images, full_scale: float) -> tuple[Statistic, Statistic]:
        """The mean image, and full_scale."""
        return _mean(train_x, lambda x: x), _number(full_scale)


@dataclass(frozen=True)
class FittedScaling:
    """A scaling with its statistics: scale * (x - center) / spread + shift."""

    center: Statistic
    spread: Statistic
    scale: float | Tensor
    shift: float | Tensor

    def to(self, device: torch.device) -> FittedScaling:
        """The same with its statistics on a device, so that `apply` there moves nothing."""
        return replace(self, center=self.center.to(device), spread=self.spread.to(device))

    def apply(
        self, x: Images, dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "image channel height width"]:
        """Scale images of any type, on their own device.

        Computed in float32 at least: 8 bits of a bfloat16 would blur `x - center`.
        """
        wide = torch.promote_types(dtype, torch.float32)
        center, spread = self.center.to(x.device, wide), self.spread.to(x.device, wide)
        scaled = (x.to(wide) - center) / spread
        return (_rounded(self.scale, wide) * scaled + _rounded(self.shift, wide)).to(dtype)


@dataclass(frozen=True)
class Scaling:
    """A method with the keys that all methods share.

    Parameters
    ----------
    method
        What center and spread mean.
    scale, shift
        Applied last: scale * method(x) + shift.

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
        """Take the statistics of the training images, in float64.

        Parameters
        ----------
        train_x
            The training images, uint8 or float.
        full_scale
            The largest value an image can take: 255 for pictures, 1 for noise.
        """
        center, spread = self.method.fit(train_x, full_scale)
        return FittedScaling(center, spread, self.scale, self.shift)


def _rounded(factor: float | Tensor, dtype: torch.dtype) -> float | Tensor:
    """A tensor in `dtype`, as torch takes a number beside a tensor of that type."""
    return factor.to(dtype) if isinstance(factor, Tensor) else factor


def _number(value: float) -> Statistic:
    return torch.full((1, 1, 1), value, dtype=torch.float64)


def _mean(x: Images, of: Callable[[Tensor], Tensor]) -> Statistic:
    """The mean over images of `of(images)`, computed in float64, chunk by chunk."""
    total = sum(of(chunk.double()).sum(0) for chunk in x.split(CHUNK))
    return torch.as_tensor(total) / len(x)
