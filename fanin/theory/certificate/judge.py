"""Find the unhealthy layers of a network before training, each with a remedy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf, isfinite, isnan, log, nan

from fanin.text import number
from fanin.theory.certificate.record import LayerCertificate
from fanin.theory.certificate.remedies import (
    SMALL_SLOPE,
    Remedy,
    find_cause,
    format_times,
    is_graph,
    reinitialize,
    replace_nonfinite,
    rescale,
    scale_branches,
    scale_images,
    with_input_activation,
)
from fanin.theory.certificate.verdicts import Problem, Verdict


@dataclass(frozen=True)
class Limits:
    """Limits of a healthy init.

    Parameters
    ----------
    low, high
        Smallest and largest accepted ratio, in both directions. Forward, it is the second moment of
        a layer's pre-activations divided by that of the first layer. Backward, it is the expected
        squared norm of a layer's cotangent divided by that of the last hidden layer. A ratio of
        1000 is a factor of 30 in scale, which is hard to train with one learning rate for all
        layers. He et al. (2015, figure 3) report that a 30-layer network with a second moment of
        2^-29 fails to train and a 22-layer one with 2^-21 trains slowly, so the default limits are
        cautious.
    dtype
        `float32`, `bfloat16` or `float16`: the dtype that the network will run in.
    max_overflow
        Largest accepted probability of an overflow in a layer.
    max_dead
        Largest accepted fraction of units that are zero on the whole batch. One half is normal for
        deep ReLU networks with highly correlated activations (derivations.md, 7).
    max_sensitivity
        Largest accepted growth of a relative error of the second moment, as a factor from the first
        layer to the last. At a factor of 2, second moments vary twice as much between draws as the
        width alone explains.
    """

    low: float = 1e-3
    high: float = 1e3
    dtype: str = "float32"
    max_overflow: float = 0.01
    max_dead: float = 0.9
    max_sensitivity: float = 2.0


def judge(layers: Sequence[LayerCertificate], limits: Limits | None = None) -> tuple[Verdict, ...]:
    """Find the unhealthy layers of a network.

    Parameters
    ----------
    layers
        Records of the weight layers: `Certificate.layers`.
    limits
        Limits of a healthy init. None uses `Limits()`.

    Returns
    -------
    tuple of Verdict
        One verdict per problem, in forward order within each kind of problem. Empty for a healthy
        init. Quantities that no theory predicts are not checked.
    """
    limits = limits or Limits()
    return (
        *_forward(layers, limits),
        *_backward(layers, limits),
        *_overflow(layers, limits),
        *_dead(layers, limits),
        *_unstable(layers, limits),
    )


def _verdict(
    layer: LayerCertificate,
    problem: Problem,
    quantity: str,
    value: float,
    limit: float,
    message: str,
    effect: str,
    remedy: Remedy,
    cause: str = "",
) -> Verdict:
    return Verdict(
        *(layer.name, problem, quantity, value, limit, message, remedy.text, layer.description),
        *(cause, effect, remedy.torch_code, remedy.override, remedy),
    )


def _forward(layers: Sequence[LayerCertificate], limits: Limits) -> Iterator[Verdict]:
    first = layers[0]
    if "preact_m2" in first.predicted and not isfinite(first.q):
        yield _verdict(
            *(first, "exploding", "preact_m2", first.q, limits.high),
            f"the output of {first.description} is {'NaN' if isnan(first.q) else 'infinite'}",
            "the loss is NaN from the first step on",
            replace_nonfinite(),
        )
    elif first.q > limits.high:
        yield _verdict(
            *(first, "exploding", "preact_m2", first.q, limits.high),
            f"the output of {first.description} has an rms of {number(first.q**0.5)}; about 1 is"
            " common",
            FORWARD_EFFECTS["exploding"],
            scale_images(first.label),
        )
    elif first.q == 0:
        yield _verdict(
            *(first, "vanishing", "preact_m2", first.q, limits.low),
            f"the output of {first.description} is 0",
            FORWARD_EFFECTS["vanishing"],
            reinitialize(layers),
            "its weights or inputs are 0",
        )
        return
    gains = _forward_gains(layers)
    for before, layer in pairwise(layers):
        if "preact_m2" in layer.predicted and isnan(layer.q):
            between = f"between {before.label} and {layer.label}"
            yield _verdict(
                *(layer, "exploding", "preact_m2", layer.q, limits.high),
                f"the output of {layer.description} is NaN",
                "the loss is NaN from the first step on",
                Remedy(
                    f"change the operation {between} that returns NaN, such as the logarithm or"
                    " the square root of a negative number, or inf - inf",
                    f"# change the operation {between} that returns NaN",
                ),
            )
            return
        ratio = _ratio(layer.q, first.q)
        problem = _problem(ratio, limits)
        if problem is None or _is_small_branch(layer, problem):
            continue
        shrinks = problem == "vanishing"
        change = f"{'shrinks' if shrinks else 'grows'} {_times(ratio)} times"
        message = f"the signal (rms of the layers' outputs) {change} from {first.label}"
        message += f" to {layer.description}"
        remedy, cause = _remedy_and_cause(layers, shrinks, gains)
        if layer.q == 0:
            message = f"the output of {layer.description} is 0"
            cause = "its weights or inputs are 0"
        elif not isfinite(layer.q):
            message = f"the output of {layer.description} is infinite even in float64"
        yield _verdict(
            *(layer, problem, "preact_m2", ratio, _limit(problem, limits), message),
            *(FORWARD_EFFECTS[problem], remedy, cause),
        )


def _backward(layers: Sequence[LayerCertificate], limits: Limits) -> Iterator[Verdict]:
    # The reference is the last hidden layer, because a small output layer is often intended, and a
    # global average pooling before it only distributes the cotangent over positions.
    hidden = layers[:-1]
    if any("preact_m2" in layer.predicted and isnan(layer.q) for layer in layers):
        return  # the gradients are NaN for the same reason
    for layer in reversed(hidden):
        if "vjp_m2" in layer.predicted and isnan(layer.backward_norm_m2):
            yield _verdict(
                *(layer, "exploding", "vjp_m2", nan, limits.high),
                f"the gradient of {layer.description} is NaN",
                "the weights are NaN after the first step",
                Remedy(
                    f"change the operation after {layer.label} whose derivative is NaN or"
                    " infinite, such as that of the square root at 0",
                    f"# change the operation after {layer.label} whose derivative is NaN",
                ),
            )
            return
    on_all_paths = [layer for layer in hidden if not layer.in_branch]
    if not on_all_paths or not on_all_paths[-1].backward_norm_m2 > 0:
        return
    last = on_all_paths[-1]
    # Gains of both directions would not fix the network if a user applied them together.
    signal_is_healthy = all(_problem(_ratio(x.q, layers[0].q), limits) is None for x in layers)
    gains = _backward_gains(hidden) if signal_is_healthy else _forward_gains(layers)
    for layer in hidden:
        ratio = _ratio(layer.backward_norm_m2, last.backward_norm_m2)
        problem = _problem(ratio, limits)
        if layer is last or problem is None or _is_small_branch(layer, problem):
            continue
        shrinks = problem == "vanishing"
        change = f"{'shrink' if shrinks else 'grow'} {_times(ratio)} times"
        message = f"gradients {change} between {last.label} and {layer.description}"
        remedy, cause = _remedy_and_cause(layers, shrinks, gains)
        if ratio == 0:
            message = f"the gradient of {layer.description} is 0"
            cause = cause or "the derivatives of all activations after it are 0"
        elif not isfinite(ratio):
            message = f"the gradient of {layer.description} is infinite even in float64"
        yield _verdict(
            *(layer, problem, "vjp_m2", ratio, _limit(problem, limits), message),
            *(BACKWARD_EFFECTS[problem], remedy, cause),
        )


def _forward_gains(layers: Sequence[LayerCertificate]) -> dict[str, float]:
    """Return factors on the weights that give each layer the signal of the layer before."""
    return {
        layer.name: _gain(before.q, layer.q)
        for before, layer in pairwise(layers)
        if isfinite(layer.q) and layer.q > 0
    }


def _backward_gains(layers: Sequence[LayerCertificate]) -> dict[str, float]:
    """Return factors on the weights that give each layer the gradient of the layer after."""
    return {
        above.name: _gain(above.backward_norm_m2, layer.backward_norm_m2)
        for layer, above in pairwise(layers)
        if isfinite(layer.backward_norm_m2) and layer.backward_norm_m2 > 0
    }


FORWARD_EFFECTS: dict[Problem, str] = {
    "vanishing": "all logits are near 0, so the loss can start to fall late or never",
    "exploding": "the initial loss is huge, so usual learning rates can give a loss of inf or NaN",
}
BACKWARD_EFFECTS: dict[Problem, str] = {
    "vanishing": "the early layers learn slowly at a learning rate that suits the later ones",
    "exploding": "a learning rate that suits the later layers can make the early ones diverge",
}


def _remedy_and_cause(
    layers: Sequence[LayerCertificate], too_small: bool, gains: dict[str, float]
) -> tuple[Remedy, str]:
    """Return a remedy and its cause: new weights if a cause is known, gains if none is known."""
    cause = find_cause(layers, too_small=too_small)
    small_slopes = {activation for activation, _ in with_input_activation(layers)} & SMALL_SLOPE
    if small_slopes and too_small and not cause:
        cause = f"the slope of {min(small_slopes)} is at most 1/4"
    if is_graph(layers) and not cause:
        return scale_branches(), cause
    return (reinitialize(layers) if cause or not gains else rescale(gains)), cause


def _is_small_branch(layer: LayerCertificate, problem: Problem) -> bool:
    """Return True for a vanishing tensor that other paths go around, as in a zero-init branch."""
    return layer.in_branch and problem == "vanishing"


def _overflow(layers: Sequence[LayerCertificate], limits: Limits) -> Iterator[Verdict]:
    for layer in layers:
        probability = layer.overflow.get(limits.dtype, nan)
        if probability > limits.max_overflow:
            yield _verdict(
                *(layer, "overflowing", "overflow", probability, limits.max_overflow),
                f"the output of {layer.description} overflows {limits.dtype} with a probability of"
                f" {probability:.3g}",
                "the loss is inf or NaN in the first step",
                reinitialize(layers)
                if find_cause(layers, too_small=False) or limits.dtype != "float16"
                else Remedy("use a dtype with a larger range", "model.to(torch.bfloat16)"),
                find_cause(layers, too_small=False),
            )


def _dead(layers: Sequence[LayerCertificate], limits: Limits) -> Iterator[Verdict]:
    for layer in layers:
        if layer.dead_fraction > limits.max_dead:
            yield _verdict(
                *(layer, "dead", "dead_fraction", layer.dead_fraction, limits.max_dead),
                f"{layer.dead_fraction:.0%} of the units of {layer.description} are zero on every"
                " image",
                "dead units get no gradient, so they do not learn",
                reinitialize(layers, zero_biases=True),
                find_cause(layers, too_small=False),
            )


def _unstable(layers: Sequence[LayerCertificate], limits: Limits) -> Iterator[Verdict]:
    amplified = 1.0
    for layer in layers:
        if isfinite(layer.log_sensitivity):
            amplified *= layer.log_sensitivity
        if amplified > limits.max_sensitivity:
            yield _verdict(
                *(layer, "depth-unstable", "log_sensitivity", amplified, limits.max_sensitivity),
                "a deviation of 1 % in the signal of the first layer becomes one of"
                f" {amplified:.2g} % in the output of {layer.description}",
                "the scale of the signal differs between seeds, so some runs train and others do"
                " not",
                Remedy(
                    f"use nn.ReLU(), which keeps relative deviations constant, instead of"
                    f" {layer.activation}; or increase the gains, or add normalization",
                    f"nn.ReLU()  # instead of nn.{layer.activation}()",
                    "activation=relu",
                ),
            )
            return  # the factor accumulates, so every later layer has the same problem


def _ratio(value: float, reference: float) -> float:
    if reference == 0:
        return nan if value == 0 else inf
    return value / reference


def _times(ratio: float) -> str:
    """Format the factor between two rms values, given the ratio of their squares."""
    return format_times(abs(log(ratio)) / 2) if 0 < ratio < inf else ""


def _problem(ratio: float, limits: Limits) -> Problem | None:
    if ratio < limits.low:
        return "vanishing"
    return "exploding" if ratio > limits.high else None


def _limit(problem: Problem, limits: Limits) -> float:
    return limits.low if problem == "vanishing" else limits.high


def _gain(target: float, current: float) -> float:
    """Return the factor on the weights that changes one second moment to another."""
    return (target / current) ** 0.5 if isfinite(current) and current > 0 else 0.0
