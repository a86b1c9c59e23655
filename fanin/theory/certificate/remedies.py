"""Causes of an unhealthy init, and changes that fix it: PyTorch code and config overrides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from math import exp, isfinite, log, nan

import torch
from torch import Tensor, nn

from fanin.inits import HeNormal, Moments, WeightShape, XavierNormal, weight_layers
from fanin.theory.certificate.record import LayerCertificate
from fanin.theory.moments import LayerMoments

TOLERANCE = 1.1  # variances within this factor of the recommended one are no cause
RECTIFIERS = {
    *("ReLU", "ReLU6", "LeakyReLU", "PReLU", "RReLU", "ELU", "CELU"),
    *("GELU", "SiLU", "Mish", "Hardswish"),
}
LINEAR_AT_ZERO = {"", "Tanh", "Hardtanh", "Softsign", "Erf", "Identity", "SELU"}  # slope about 1
SMALL_SLOPE = {"Sigmoid", "Hardsigmoid"}  # slope of at most 1/4
# Smallest E[b^2] of biases that new weights do not suffice for. With He's init and images of
# variance 1, E[y^2] is 2. The biases of torch's default init are below 0.04 from 9 inputs on.
LARGE_BIAS = 0.1
ZERO_BIASES = '[nn.init.zeros_(b) for name, b in model.named_parameters() if name.endswith("bias")]'


@dataclass(frozen=True)
class Setup:
    """A network, the moments of its weights, and images, which determine a prediction."""

    model: nn.Module
    moments: Mapping[str, LayerMoments]
    images: Tensor


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
    apply
        Function that makes the same change to a `Setup`; None if there is none.
    with_zero_biases
        The same remedy that also sets the biases to 0; None if it does so already, or does not
        concern biases.
    """

    text: str
    torch_code: str = ""
    override: str = ""
    apply: Callable[[Setup], Setup] | None = field(default=None, compare=False, repr=False)
    with_zero_biases: Remedy | None = field(default=None, compare=False, repr=False)


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
        if len(shifted) == len(layers) > 1:
            return f"the weights of all {len(layers)} layers have a non-zero mean"
        more = f" and of {_count(len(shifted) - 1, 'other layer')}" if shifted[1:] else ""
        return f"the weights of {shifted[0].label}{more} have a non-zero mean"
    excess: list[tuple[float, LayerCertificate, str]] = []
    for activation, layer in with_input_activation(layers):
        recommended = _recommended_variance(activation)
        variance = layer.depth.sigma_w2 if layer.depth else nan
        if recommended and variance > 0 and layer.has_zero_mean_weights:
            ratio = recommended / variance if too_small else variance / recommended
            if ratio > TOLERANCE and isfinite(ratio):
                excess.append((ratio, layer, activation))
    if not excess:
        return ""
    ratio, layer, activation = max(excess, key=lambda entry: entry[0])
    more = f", and {_count(len(excess) - 1, 'other layer')} similarly" if excess[1:] else ""
    return (
        f"the variance of the weights of {layer.label} is {format_times(log(ratio))} times too"
        f" {'small' if too_small else 'large'}"
        f"{f' for {activation}' if activation else ''}{more}"
    )


def with_input_activation(
    layers: Sequence[LayerCertificate],
) -> list[tuple[str, LayerCertificate]]:
    """Return the weight layers after the first, each with the activation before it."""
    if is_graph(layers):
        weighted = [layer for layer in layers if layer.fan_in]
        return [(layer.input_activation or "", layer) for layer in weighted[1:]]
    return [(before.activation, layer) for before, layer in pairwise(layers)]


def is_graph(layers: Sequence[LayerCertificate]) -> bool:
    """Return True if the records are those of a graph, whose order is not a sequence."""
    return any(layer.input_activation is not None for layer in layers)


def reinitialize(layers: Sequence[LayerCertificate], *, zero_biases: bool = False) -> Remedy:
    """Return the remedy that draws all weights with the variance that suits the activations.

    Parameters
    ----------
    layers
        All weight layers.
    zero_biases
        True to set the biases to 0 also if they are small (`LARGE_BIAS`).
    """
    zero_biases = zero_biases or any(layer.bias_m2 > LARGE_BIAS for layer in layers)
    activations = Counter(activation for activation, _ in with_input_activation(layers))
    activation = activations.most_common(1)[0][0] if activations else ""
    scheme: HeNormal | XavierNormal = XavierNormal()
    replaced = ""
    if activation in SMALL_SLOPE:
        replaced = activation
        text = (
            f"replace {activation} by an activation with a slope of about 1, and use Glorot's init"
        )
        code = f"nn.Tanh()  # instead of nn.{activation}(), and\n{_draw_all('xavier_normal_')}"
        override = "activation=tanh init=xavier_normal"
    elif activation in LINEAR_AT_ZERO:
        text = "draw weights of mean 0 and variance 2 / (fan_in + fan_out) (Glorot)"
        code, override = _draw_all("xavier_normal_"), "init=xavier_normal"
    else:
        scheme = HeNormal()
        text = "draw weights of mean 0 and variance 2 / fan_in (He)"
        code, override = _draw_all("kaiming_normal_", ', nonlinearity="relu"'), "init=he_normal"
    keeps_biases = Remedy(text, code, override, partial(_draw, scheme=scheme, replaced=replaced))
    if all(layer.bias_m2 == 0 for layer in layers):
        return keeps_biases
    zeroes_biases = Remedy(
        f"{text}, and set the biases to 0",
        f"{code}\n{ZERO_BIASES}",
        f"{override} init.bias=0",
        partial(_draw, scheme=scheme, replaced=replaced, zero_biases=True),
    )
    return zeroes_biases if zero_biases else replace(keeps_biases, with_zero_biases=zeroes_biases)


def rescale(gains: dict[str, float]) -> Remedy:
    """Return the remedy that multiplies the weights of some layers by gains."""
    factors = ", ".join(f'"{name}": {gain:.3g}' for name, gain in gains.items())
    return Remedy(
        "multiply the weights by gains that keep the signal constant",
        f"for name, gain in {{{factors}}}.items():\n"
        "    model.get_submodule(name).weight.data.mul_(gain)",
        "init=certified",
        partial(_multiply, gains=gains),
    )


def scale_branches() -> Remedy:
    """Return the remedy for a graph whose weights have the recommended variances."""
    return Remedy(
        "scale the residual branches (the inits fixup and skipinit start them near 0), add"
        " normalization, or use the gains that prescribe computes",
        "print(fanin.prescribe(model, images).torch_code)",
        "init=fixup model.scalars=fixup",
    )


def scale_images(label: str) -> Remedy:
    """Return the remedy that scales images to mean 0 and variance 1, for a layer's label."""
    return Remedy(
        f"scale the images, or use smaller weights in {label}",
        "images = (images - images.mean()) / images.std()",
        apply=lambda setup: replace(
            setup, images=(setup.images - setup.images.mean()) / setup.images.std()
        ),
    )


def replace_nonfinite() -> Remedy:
    """Return the remedy that removes NaN and infinite values from the images."""
    return Remedy(
        "remove NaN and infinite values from the images, or scale the images down",
        "images = torch.nan_to_num(images, posinf=0.0, neginf=0.0)",
        apply=lambda setup: replace(
            setup, images=torch.nan_to_num(setup.images, posinf=0.0, neginf=0.0)
        ),
    )


def _draw(
    setup: Setup,
    *,
    scheme: HeNormal | XavierNormal,
    replaced: str = "",
    zero_biases: bool = False,
) -> Setup:
    """Give all weights the moments of a scheme, and replace an activation by Tanh."""
    modules = weight_layers(setup.model)
    moments = {}
    for name, layer in setup.moments.items():
        weight = scheme.moments(WeightShape.of(modules[name]))
        moments[name] = LayerMoments(weight, Moments(0.0, 0.0) if zero_biases else layer.bias)
    model = setup.model
    if replaced:
        model = deepcopy(model)
        for parent in list(model.modules()):
            # named_children() would skip the second appearance of a module.
            for name, child in parent._modules.items():
                if type(child).__name__ == replaced:
                    parent._modules[name] = nn.Tanh()
    return Setup(model, moments, setup.images)


def _multiply(setup: Setup, gains: Mapping[str, float]) -> Setup:
    """Multiply the weights of some layers by gains."""
    scaled = {
        name: replace(setup.moments[name], weight=setup.moments[name].weight.scaled(gain))
        for name, gain in gains.items()
    }
    return replace(setup, moments={**setup.moments, **scaled})


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
