"""Schemes with a variance computed from the fans: Glorot, He, LeCun and torch's default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import FiniteFloat

from fanin.inits.distributions import Uniform
from fanin.inits.scheme import GaussianScheme, LayerContext, UniformScheme
from fanin.inits.weight_shape import Moments, WeightShape


@dataclass(frozen=True)
class HeNormal(GaussianScheme):
    """N(0, 2 / ((1 + negative_slope^2) fan)) weights (He et al. 2015, eq. 10, 14 and 15).

    Parameters
    ----------
    fan
        `fan_in` keeps second moments constant in the forward pass (eq. 10), `fan_out` in the
        backward pass (eq. 14).
    negative_slope
        Slope of a leaky ReLU below 0 (eq. 15); 0 for ReLU.
    per_group
        For `fan_out` of a grouped convolution. False counts all output channels, as
        `torch.nn.init.kaiming_normal_` does. True counts those of one group, which keeps the
        scale of the backward pass.

    Examples
    --------
    >>> HeNormal().moments(WeightShape(10, 20))
    Moments(mean=0.0, var=0.1)
    """

    fan: Literal["fan_in", "fan_out"] = "fan_in"
    negative_slope: FiniteFloat = 0.0
    per_group: bool = False

    def moments(self, weight: WeightShape) -> Moments:
        shape = weight.one_group if self.per_group else weight
        return Moments(mean=0.0, var=2 / ((1 + self.negative_slope**2) * shape.fan(self.fan)))


@dataclass(frozen=True)
class HeUniform(UniformScheme):
    """Uniform weights with the variance of `HeNormal` (He et al. 2015).

    Parameters
    ----------
    fan, negative_slope, per_group
        As in `HeNormal`.

    Examples
    --------
    >>> HeUniform(fan="fan_out").moments(WeightShape(10, 20))
    Moments(mean=0.0, var=0.2)
    """

    fan: Literal["fan_in", "fan_out"] = "fan_in"
    negative_slope: FiniteFloat = 0.0
    per_group: bool = False

    def moments(self, weight: WeightShape) -> Moments:
        shape = weight.one_group if self.per_group else weight
        var = 2 / ((1 + self.negative_slope**2) * shape.fan(self.fan))
        return Moments.uniform(mean=0.0, var=var)


@dataclass(frozen=True)
class XavierNormal(GaussianScheme):
    """N(0, 2 / (fan_in + fan_out)) weights (Glorot & Bengio 2010, eq. 12).

    Parameters
    ----------
    per_group
        For `fan_out` of a grouped convolution. False counts all output channels, as
        `torch.nn.init.xavier_normal_` does. True counts those of one group, as if each group were
        a layer of its own.

    Examples
    --------
    >>> XavierNormal().moments(WeightShape(10, 30))
    Moments(mean=0.0, var=0.05)
    >>> conv = WeightShape(30, 20, kernel=(1, 1), groups=2)  # fan_in 10, fan_out 30
    >>> XavierNormal().moments(conv).var, XavierNormal(per_group=True).moments(conv).var
    (0.05, 0.08)
    """

    per_group: bool = False

    def moments(self, weight: WeightShape) -> Moments:
        shape = weight.one_group if self.per_group else weight
        return Moments(mean=0.0, var=1 / shape.fan("fan_avg"))


@dataclass(frozen=True)
class XavierUniform(UniformScheme):
    """Uniform weights of variance 2 / (fan_in + fan_out) (Glorot & Bengio 2010, eq. 16).

    Parameters
    ----------
    per_group
        As in `XavierNormal`; False matches `torch.nn.init.xavier_uniform_`.

    Examples
    --------
    >>> XavierUniform().moments(WeightShape(10, 30))
    Moments(mean=0.0, var=0.05)
    """

    per_group: bool = False

    def moments(self, weight: WeightShape) -> Moments:
        shape = weight.one_group if self.per_group else weight
        return Moments.uniform(mean=0.0, var=1 / shape.fan("fan_avg"))


@dataclass(frozen=True)
class LecunNormal(GaussianScheme):
    """N(0, 1 / fan_in) weights (LeCun et al. 1998, "Efficient BackProp", section 4.6).

    The distribution is not truncated, unlike `lecun_normal` in TensorFlow and JAX.

    Examples
    --------
    >>> LecunNormal().moments(WeightShape(10, 20))
    Moments(mean=0.0, var=0.05)
    """

    def moments(self, weight: WeightShape) -> Moments:
        return Moments(mean=0.0, var=1 / weight.fan_in)


@dataclass(frozen=True)
class LecunUniform(UniformScheme):
    """Uniform weights of variance 1 / fan_in (LeCun et al. 1998, section 4.6).

    Examples
    --------
    >>> LecunUniform().moments(WeightShape(10, 20))
    Moments(mean=0.0, var=0.05)
    """

    def moments(self, weight: WeightShape) -> Moments:
        return Moments.uniform(mean=0.0, var=1 / weight.fan_in)


@dataclass(frozen=True)
class PytorchDefault(UniformScheme):
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for weights and biases.

    `reset_parameters` of torch's linear and convolution layers calls
    `kaiming_uniform_(weight, a=sqrt(5))`, with variance 2 / ((1 + 5) fan_in) = 1 / (3 fan_in), a
    sixth of He's variance. Biases have the same distribution; they are not 0.

    Examples
    --------
    >>> PytorchDefault().moments(WeightShape(10, 20)).var * 60
    1.0
    """

    def moments(self, weight: WeightShape) -> Moments:
        return Moments.uniform(mean=0.0, var=1 / (3 * weight.fan_in))

    def bias(self, weight: WeightShape, layer: LayerContext) -> Uniform:
        bound = weight.fan_in**-0.5
        return Uniform(-bound, bound)
