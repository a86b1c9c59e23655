"""Causes of an unhealthy init, and PyTorch code and config overrides that fix it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp, isfinite, log, nan

from fanin.theory.certificate.record import LayerCertificate

TOLERANCE = 1.1  # variances within this factor of the recommended one are no cause
RECTIFIERS = {
    *("ReLU", "ReLU6", "LeakyReLU", "PReLU", "RReLU", "ELU", "CELU"),
    *("GELU", "SiLU", "Mish", "Hardswish"),
}
LINEAR_AT_ZERO = {"", "Tanh", "Hardtanh", "Softsign", "Erf", "Identity", "SELU"}  # slope about 1
SMALL_SLOPE = {"Sigmoid", "Hardsigmoid"}  # slope of at most 1/4


@dataclass(frozen=True)
class Remedy:
    """A way to fix an unhealthy init.

    Attributes
    ----------
    text
        Instruction in words.
    torch_code
        A line of PyTorch code, in terms of `model`, `images` and `nn`; "" if there is none.
    override
        Override of `fanin run` for a model from a config; "" if there is none.
    """

    text: str
    torch_code: str = ""
    override: str = ""


def find_cause(layers: Sequence[LayerCertificate], *, too_small: bool) -> str:
    """Describe the weights that shrink or amplify the signal most; "" if none do.

    The recommended variance is that of He or Glorot for the activation before each layer.

    Parameters
    ----------
    layers
        All weight layers, in forward order.
    too_small
        Search for variances that are too small; otherwise for non-zero means and large variances.
    """
    shifted = [layer for layer in layers if not layer.has_zero_mean_weights]
    if shifted and not too_small:
        more = f" and of {_count(len(shifted) - 1, 'other layer')}" if shifted[1:] else ""
        return f"the weights of layer {shifted[0].name}{more} have a non-zero mean"
    excess: list[tuple[float, LayerCertificate, str]] = []
    for before, layer in pairwise(layers):
        recommended = _recommended_variance(before.activation)
        variance = layer.depth.sigma_w2 if layer.depth else nan
        if recommended and variance > 0 and layer.has_zero_mean_weights:
            ratio = recommended / variance if too_small else variance / recommended
            if ratio > TOLERANCE and isfinite(ratio):
                excess.append((ratio, layer, before.activation))
    if not excess:
        return ""
    ratio, layer, activation = max(excess, key=lambda entry: entry[0])
    more = f", and {_count(len(excess) - 1, 'other layer')} similarly" if excess[1:] else ""
    return (
        f"the variance of the weights of layer {layer.name} is {format_times(log(ratio))} times too"
        f" {'small' if too_small else 'large'}"
        f"{f' for {activation}' if activation else ''}{more}"
    )


def reinitialize(layers: Sequence[LayerCertificate]) -> Remedy:
    """Return the remedy that draws all weights with the variance that suits the activations."""
    activations = Counter(layer.activation for layer in layers[:-1])
    activation = activations.most_common(1)[0][0] if activations else ""
    if activation in SMALL_SLOPE:
        return Remedy(
            f"use an activation with a slope of about 1 instead of {activation}, and Glorot's init",
            f"nn.Tanh()  # and {_draw_all('xavier_normal_')}",
            "activation=tanh init=xavier_normal",
        )
    if activation in LINEAR_AT_ZERO:
        return Remedy(
            "draw weights of mean 0 and variance 2 / (fan_in + fan_out) (Glorot)",
            _draw_all("xavier_normal_"),
            "init=xavier_normal",
        )
    return Remedy(
        "draw weights of mean 0 and variance 2 / fan_in (He)",
        _draw_all("kaiming_normal_", ', nonlinearity="relu"'),
        "init=he_normal",
    )


def rescale(gains: dict[str, float]) -> Remedy:
    """Return the remedy that multiplies the weights of some layers by gains."""
    factors = ", ".join(f'"{name}": {gain:.3g}' for name, gain in gains.items())
    return Remedy(
        "multiply the weights by gains that keep the signal constant",
        f"for name, gain in {{{factors}}}.items(): "
        "model.get_submodule(name).weight.data.mul_(gain)",
        "init=certified",
    )


def format_times(log_factor: float) -> str:
    """Format a factor above 1, given its logarithm.

    Examples
    --------
    >>> format_times(log(3.14159)), format_times(log(52_345.0)), format_times(100.0)
    ('3.1', '52,000', '10^43')
    """
    if log_factor > log(1e6):
        return f"10^{log_factor / log(10):.0f}"
    value = float(f"{exp(log_factor):.2g}")
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _recommended_variance(activation: str) -> float | None:
    """Return the recommended fan_in * Var[w] of a layer after this activation; None if unknown."""
    if activation in RECTIFIERS:
        return 2.0
    return 1.0 if activation in LINEAR_AT_ZERO else None


def _draw_all(function: str, options: str = "") -> str:
    return f"[nn.init.{function}(w{options}) for w in model.parameters() if w.ndim > 1]"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' if n != 1 else ''}"
