"""Distributions with moments that do not depend on the fans."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float64
from pydantic import Field, FiniteFloat
from torch import Tensor

from fanin.inits.scheme import GaussianScheme, LayerContext
from fanin.inits.weight_shape import Moments, WeightShape

CONVS_WITH_UNIT_BIAS = ("conv2", "conv4", "conv5")

# Where the density is below exp(-40) = 4e-18 of its peak, it does not change a moment in float64.
NEGLIGIBLE_LOG_DENSITY = 40.0
NODES, WEIGHTS = np.polynomial.legendre.leggauss(200)


@dataclass(frozen=True)
class Constant:
    """The same value for every weight.

    All units of a layer are then equal, and training keeps them equal.

    Parameters
    ----------
    value
        The value.

    Examples
    --------
    >>> Constant(0.5).sample(WeightShape(1, 2), torch.Generator())
    tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """

    value: FiniteFloat

    def moments(self, weight: WeightShape) -> Moments:
        return Moments(mean=self.value, var=0.0)

    def sample(
        self, weight: WeightShape, generator: torch.Generator
    ) -> Float64[Tensor, "out in *kernel"]:
        return torch.full(weight.shape, self.value, dtype=torch.float64)


@dataclass(frozen=True)
class Zeros:
    """Zero weights.

    With zero biases too, the logits are 0 and only the output bias has a non-zero gradient.

    Examples
    --------
    >>> Zeros().moments(WeightShape(1, 2))
    Moments(mean=0.0, var=0.0)
    """

    def moments(self, weight: WeightShape) -> Moments:
        return Moments(mean=0.0, var=0.0)

    def sample(
        self, weight: WeightShape, generator: torch.Generator
    ) -> Float64[Tensor, "out in *kernel"]:
        return torch.zeros(weight.shape, dtype=torch.float64)


@dataclass(frozen=True)
class Normal(GaussianScheme):
    """N(mean, std^2) weights.

    Parameters
    ----------
    std
        Standard deviation, 0 or more.
    mean
        Mean.

    Examples
    --------
    >>> Normal(std=0.5).moments(WeightShape(10, 20))
    Moments(mean=0.0, var=0.25)
    """

    std: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    mean: FiniteFloat = 0.0

    def moments(self, weight: WeightShape) -> Moments:
        return Moments(mean=self.mean, var=self.std**2)


@dataclass(frozen=True)
class Uniform:
    """U(a, b) weights. U(0, 1) has a mean of 1/2, not 0.

    Parameters
    ----------
    a, b
        Lower and upper bound.

    Raises
    ------
    ValueError
        `a` is not below `b`.

    Examples
    --------
    >>> Uniform(a=-3.0, b=3.0).moments(WeightShape(10, 20))
    Moments(mean=0.0, var=3.0)
    """

    a: FiniteFloat
    b: FiniteFloat

    def __post_init__(self) -> None:
        if not self.a < self.b:
            raise ValueError(f"a must be less than b, got a={self.a}, b={self.b}")

    def moments(self, weight: WeightShape) -> Moments:
        return Moments.uniform(mean=(self.a + self.b) / 2, var=(self.b - self.a) ** 2 / 12)

    def sample(
        self, weight: WeightShape, generator: torch.Generator
    ) -> Float64[Tensor, "out in *kernel"]:
        u = torch.rand(weight.shape, generator=generator, dtype=torch.float64)
        return self.a + (self.b - self.a) * u


@dataclass(frozen=True)
class TruncatedNormal:
    """N(mean, std^2) weights, truncated to [a, b].

    As in `torch.nn.init.trunc_normal_`, `a` and `b` are absolute values, not multiples of `std`: at
    a `std` of 0.02 the default bounds are 100 standard deviations away and truncate nothing.
    (TensorFlow and JAX truncate at two standard deviations.)

    Parameters
    ----------
    mean, std
        Mean and standard deviation of the normal distribution before truncation.
    a, b
        Lower and upper bound.

    Raises
    ------
    ValueError
        `a` is not below `b`.

    Examples
    --------
    >>> round(TruncatedNormal().moments(WeightShape(10, 20)).var, 5)
    0.77374
    """

    mean: FiniteFloat = 0.0
    std: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    a: FiniteFloat = -2.0
    b: FiniteFloat = 2.0

    def __post_init__(self) -> None:
        if not self.a < self.b:
            raise ValueError(f"a must be less than b, got a={self.a}, b={self.b}")

    def moments(self, weight: WeightShape) -> Moments:
        mean, var = _standard_moments(
            (self.a - self.mean) / self.std,
            (self.b - self.mean) / self.std,
            (self.b - self.a) / self.std,
        )
        return Moments(mean=self.mean + self.std * mean, var=self.std**2 * var)

    def sample(
        self, weight: WeightShape, generator: torch.Generator
    ) -> Float64[Tensor, "out in *kernel"]:
        from scipy.stats import truncnorm  # imported here because it takes most of a second

        u = torch.rand(weight.shape, generator=generator, dtype=torch.float64).numpy()
        low, high = (self.a - self.mean) / self.std, (self.b - self.mean) / self.std
        z = torch.from_numpy(np.asarray(truncnorm.ppf(u, low, high)))
        return (self.mean + self.std * z).clamp(self.a, self.b)


def _standard_moments(low: float, high: float, width: float) -> tuple[float, float]:
    """Return mean and variance of a standard normal truncated to [low, high = low + width].

    This is Gauss-Legendre quadrature over the distance t from the mode. The usual formula, 1 + (low
    phi(low) - high phi(high)) / Z - ..., loses all digits of a small variance: in far tails and
    for bounds that are close together.
    """
    if high < 0:
        mean, var = _standard_moments(-high, -low, width)
        return -mean, var
    mode = max(low, 0.0)
    # Solve mode t + t^2 / 2 = NEGLIGIBLE_LOG_DENSITY for t: the left side is the decrease of the
    # log density at distance t from the mode.
    reach = 2 * NEGLIGIBLE_LOG_DENSITY / (mode + sqrt(mode**2 + 2 * NEGLIGIBLE_LOG_DENSITY))
    start = max(low, -reach) if mode == 0 else 0.0
    stop = min(high, reach) if mode == 0 else min(width, reach)
    t = start + (stop - start) * (NODES + 1) / 2
    density = WEIGHTS * np.exp(-mode * t - t**2 / 2)
    density /= density.sum()
    shift = density @ t
    return float(mode + shift), float(density @ (t - shift) ** 2)


@dataclass(frozen=True)
class Alexnet2012(GaussianScheme):
    """N(0, 0.01^2) weights and some biases of 1 (Krizhevsky et al. 2012, section 5).

    Biases are 1 in the convolutions conv2, conv4 and conv5 and in every fully connected layer
    except the output layer ("this initialization accelerates the early stages of learning by
    providing the ReLUs with positive inputs"), and 0 elsewhere. Other models follow the same rule.

    Examples
    --------
    >>> fully_connected = WeightShape(10, 20)
    >>> Alexnet2012().bias(fully_connected, LayerContext("fc2"))
    Constant(value=1.0)
    >>> Alexnet2012().bias(fully_connected, LayerContext("fc3", is_output=True))
    Constant(value=0.0)
    """

    def moments(self, weight: WeightShape) -> Moments:
        return Moments(mean=0.0, var=0.01**2)

    def bias(self, weight: WeightShape, layer: LayerContext) -> Constant:
        if weight.kernel:
            return Constant(1.0 if layer.name in CONVS_WITH_UNIT_BIAS else 0.0)
        return Constant(0.0 if layer.is_output else 1.0)
