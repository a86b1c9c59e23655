"""What the modules between two weight layers do to a wide layer's units, rung 2's way.

Given one image and the mean that all units share, the pre-activations of a wide layer's units are
one Gaussian population. It is carried by quadrature nodes, and the modules act on the nodes one
after the other: what a unit at a node becomes, and how fast that changes with its pre-activation.
All positions are alike at this rung, so pooling leaves the population as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fanin.models.lrn import LocalResponseNorm
from fanin.models.norms import MeanOnly
from fanin.theory.elementwise import derivative, elementwise
from fanin.theory.quadrature import EXACT, gaussian_nodes, most_nodes
from fanin.theory.walk import DROPOUTS, NORMALIZATIONS, Named, UnpredictableLayer

RESHAPINGS = (
    *(nn.Flatten, nn.Unflatten),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
)
NODES_AT_ONCE = 2**17  # 1 MB per float64 tensor: in cache, whatever the number of states


@dataclass(frozen=True)
class UnitMoments:
    """Moments, over a population of units, of what they pass on: x, and dx/dy for the
    pre-activation y."""

    mean: Float[Tensor, "*state"]
    m2: Float[Tensor, "*state"]
    var: Float[Tensor, "*state"]
    slope_mean: Float[Tensor, "*state"]
    slope_m2: Float[Tensor, "*state"]


def unit_moments(
    modules: Iterable[Named],
    mean: Float[Tensor, "*state"],
    var: Float[Tensor, "*state"],
    order: int = EXACT,
) -> UnitMoments:
    """Moments of units with pre-activations N(mean, var) behind the given modules.

    Parameters
    ----------
    modules
        What stands between two weight layers, with names for messages.
    mean, var
        One Gaussian population per entry, float64.
    order
        Quadrature nodes per panel.

    Raises
    ------
    UnpredictableLayer
        A module that is neither elementwise nor of a kind known here.

    Examples
    --------
    >>> zero, one = torch.zeros(1).double(), torch.ones(1).double()
    >>> he = unit_moments([("act1", nn.ReLU())], zero, one)
    >>> round(he.m2.item(), 9), round(he.slope_m2.item(), 9)
    (0.5, 0.5)
    """
    modules = list(modules)
    chunk = max(1, NODES_AT_ONCE // most_nodes(order))
    chunks = zip(mean.flatten().split(chunk), var.flatten().split(chunk), strict=True)
    parts = [_moments(_through(modules, _gaussian(m, v, order))) for m, v in chunks]
    return UnitMoments(*(torch.cat(part).reshape(mean.shape) for part in zip(*parts, strict=True)))


@dataclass(frozen=True)
class _Units:
    value: Float[Tensor, "state node"]
    slope: Float[Tensor, "state node"]
    share: Float[Tensor, "state node"]

    def average(self, x: Float[Tensor, "state node"]) -> Float[Tensor, "state 1"]:
        return (self.share * x).sum(-1, keepdim=True)

    def times(self, factor: Tensor | float) -> _Units:
        return _Units(self.value * factor, self.slope * factor, self.share)


def _gaussian(mean: Tensor, var: Tensor, order: int) -> _Units:
    y, weight = gaussian_nodes(mean, var, order)
    return _Units(y, torch.ones_like(y), weight)


def _moments(units: _Units) -> tuple[Tensor, ...]:
    x, slope = units.value, units.slope
    mean = units.average(x)
    moments = (
        mean,
        units.average(x.square()),
        units.average((x - mean).square()),
        units.average(slope),
        units.average(slope.square()),
    )
    return tuple(moment.squeeze(-1) for moment in moments)


def _through(modules: list[Named], units: _Units) -> _Units:
    for name, module in modules:
        units = _apply(name, module, units)
    return units


def _apply(name: str, module: nn.Module, units: _Units) -> _Units:
    if isinstance(module, RESHAPINGS):
        return units
    if isinstance(module, MeanOnly):
        return _centred(units)
    if isinstance(module, NORMALIZATIONS):
        return _normalized(module, units)
    if isinstance(module, DROPOUTS):
        return _dropped(float(module.p), units) if module.training else units
    if isinstance(module, LocalResponseNorm):
        return _damped(units, module.alpha * module.size, module.beta, module.k)
    if isinstance(module, nn.LocalResponseNorm):
        # Torch averages over `size` channels what the paper sums.
        return _damped(units, module.alpha, module.beta, module.k)
    function = elementwise(module)
    if function is None:
        kind = type(module).__name__
        raise UnpredictableLayer(name, f"{kind} is neither elementwise nor of a kind known here")
    value, slope = derivative(function, units.value)
    return _Units(value, units.slope * slope, units.share)


def _centred(units: _Units) -> _Units:
    return _Units(units.value - units.average(units.value), units.slope, units.share)


def _normalized(module: nn.Module, units: _Units) -> _Units:
    """To mean 0 and variance 1; the statistics are many units', and don't answer to one."""
    eps = float(getattr(module, "eps", 0.0))
    if not module.training and getattr(module, "running_mean", None) is not None:
        # In evaluation by the running statistics, which are 0 and 1 in a fresh network.
        return units.times((1 + eps) ** -0.5)
    units = _centred(units)
    return units.times((units.average(units.value.square()) + eps).rsqrt())


def _dropped(p: float, units: _Units) -> _Units:
    """A share p at 0, the others 1 / (1 - p) times as large (Srivastava et al. 2014, sec. 10)."""
    kept = units.times(1 / (1 - p) if p < 1 else 0.0)
    nothing = torch.zeros_like(units.value)
    return _Units(
        torch.cat([kept.value, nothing], -1),
        torch.cat([kept.slope, nothing], -1),
        torch.cat([units.share * (1 - p), units.share * p], -1),
    )


def _damped(units: _Units, alpha: float, beta: float, k: float) -> _Units:
    """Krizhevsky et al. (2012), section 3.3, with the neighbours' squares at their mean."""
    return units.times((k + alpha * units.average(units.value.square())) ** -beta)
