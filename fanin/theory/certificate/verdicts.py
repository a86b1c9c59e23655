"""Verdicts: the unhealthy layers of a network before training, each with a remedy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf, isfinite, isnan, nan
from typing import Literal

from fanin.theory.certificate.record import LayerCertificate

MAX_SHOWN = 8  # verdicts in an error message
Problem = Literal["vanishing", "exploding", "overflowing", "dead", "depth-unstable"]


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


@dataclass(frozen=True)
class Verdict:
    """One problem of one layer.

    Attributes
    ----------
    layer
        Name of the layer.
    problem
        `vanishing`, `exploding`, `overflowing`, `dead` or `depth-unstable`.
    quantity
        Quantity that exceeds its limit.
    value
        Value that was compared to the limit. For the limits `low` and `high` it is a ratio.
    limit
        Limit that the value exceeds.
    message
        Description of the problem.
    remedy
        Instruction that fixes the problem.
    """

    layer: str
    problem: Problem
    quantity: str
    value: float
    limit: float
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"layer {self.layer} is {self.problem}: {self.message}. To fix: {self.remedy}."


class UnhealthyInit(AssertionError):
    """Error: the init of a network is unhealthy.

    Attributes
    ----------
    verdicts
        The problems, as a tuple of `Verdict`.
    """

    def __init__(self, verdicts: Sequence[Verdict]) -> None:
        lines = [f"  {verdict}" for verdict in verdicts[:MAX_SHOWN]]
        if len(verdicts) > MAX_SHOWN:
            lines.append(f"  ... and {len(verdicts) - MAX_SHOWN} more (attribute `verdicts`)")
        super().__init__("\n".join(["the init is unhealthy:", *lines]))
        self.verdicts = tuple(verdicts)


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


def _forward(layers: Sequence[LayerCertificate], limits: Limits) -> Iterator[Verdict]:
    first = layers[0].q
    if isnan(first) and "preact_m2" in layers[0].predicted:
        yield Verdict(
            *(layers[0].name, "exploding", "preact_m2", first, limits.high),
            "E[y^2] of its pre-activations is NaN",
            "remove NaN and infinite values from the images",
        )
    elif first == inf:
        yield Verdict(
            *(layers[0].name, "exploding", "preact_m2", first, limits.high),
            "E[y^2] of its pre-activations is infinite",
            "remove NaN and infinite values from the images, or scale the images down",
        )
    elif first > limits.high:
        gain = _gain(1.0, first)
        yield Verdict(
            *(layers[0].name, "exploding", "preact_m2", first, limits.high),
            f"E[y^2] of its pre-activations is {first:.3g}, above the limit {limits.high:.3g}",
            f"scale the images, or multiply init.layers.{layers[0].name}.gain by {gain:.3g}",
        )
    for before, layer in pairwise(layers):
        ratio = _ratio(layer.q, first)
        problem = _problem(ratio, limits)
        if problem is None:
            continue
        remedy = "lower the gains of earlier layers (prescribe() computes them)"
        if layer.q == 0:
            remedy = "use nonzero weights; its weights or inputs are all zero, so no gain helps"
        elif isfinite(layer.q):
            gain = _gain(before.q, layer.q)
            remedy = (
                f"multiply init.layers.{layer.name}.gain by {gain:.3g} to make E[y^2] equal to that"
                f" of layer {before.name} (prescribe() computes all gains)"
            )
        yield Verdict(
            *(layer.name, problem, "preact_m2", ratio, _limit(problem, limits)),
            f"E[y^2] of its pre-activations is {layer.q:.3g}, {ratio:.3g} times that of layer"
            f" {layers[0].name}",
            remedy,
        )


def _backward(layers: Sequence[LayerCertificate], limits: Limits) -> Iterator[Verdict]:
    # The reference is the last hidden layer, because a small output layer is often intended, and a
    # global average pooling before it only distributes the cotangent over positions.
    hidden = layers[:-1]
    if not hidden or not _total_m2(hidden[-1]) > 0:
        return
    for layer, above in pairwise(hidden):
        ratio = _ratio(_total_m2(layer), _total_m2(hidden[-1]))
        problem = _problem(ratio, limits)
        if problem is None:
            continue
        remedy = "lower the gains of later layers"
        if _total_m2(layer) == 0:
            remedy = (
                f"avoid dead or saturated units between it and layer {above.name}: the derivatives"
                " of all their activations are 0"
            )
        elif isfinite(_total_m2(layer)):
            gain = _gain(_total_m2(above), _total_m2(layer))
            remedy = (
                f"multiply init.layers.{above.name}.gain by {gain:.3g} to make it equal to that of"
                f' layer {above.name} (prescribe(direction="backward") computes all gains)'
            )
        yield Verdict(
            *(layer.name, problem, "vjp_m2", ratio, _limit(problem, limits)),
            f"the squared norm of its cotangent is {ratio:.3g} times that of layer"
            f" {hidden[-1].name}",
            remedy,
        )


def _overflow(layers: Sequence[LayerCertificate], limits: Limits) -> Iterator[Verdict]:
    for layer in layers:
        probability = layer.overflow.get(limits.dtype, nan)
        if probability > limits.max_overflow:
            yield Verdict(
                *(layer.name, "overflowing", "overflow", probability, limits.max_overflow),
                f"its pre-activations overflow {limits.dtype} with probability {probability:.3g}",
                "lower the gain of this layer or of earlier ones, or use a dtype with a larger"
                " range",
            )


def _dead(layers: Sequence[LayerCertificate], limits: Limits) -> Iterator[Verdict]:
    for layer in layers:
        if layer.dead_fraction > limits.max_dead:
            yield Verdict(
                *(layer.name, "dead", "dead_fraction", layer.dead_fraction, limits.max_dead),
                f"{layer.dead_fraction:.0%} of its units are zero on every image",
                "use nonzero weights and images; its weights or inputs are all zero"
                if layer.q == 0
                else f"use weights of mean 0 or raise init.layers.{layer.name}.bias",
            )


def _unstable(layers: Sequence[LayerCertificate], limits: Limits) -> Iterator[Verdict]:
    amplified = 1.0
    for layer in layers:
        if isfinite(layer.log_sensitivity):
            amplified *= layer.log_sensitivity
        if amplified > limits.max_sensitivity:
            yield Verdict(
                *(layer.name, "depth-unstable", "log_sensitivity"),
                *(amplified, limits.max_sensitivity),
                f"a relative error of E[y^2] grows by a factor of {amplified:.3g} from the first"
                " layer to the output of this one",
                "increase the gains (GELU and SiLU act like ReLU at a larger second moment), use"
                " fewer such layers, or add normalization",
            )
            return  # the factor accumulates, so every later layer has the same problem


def _total_m2(layer: LayerCertificate) -> float:
    """Return the expected squared norm of a layer's cotangent.

    With He init it is equal in all layers, whatever their widths.
    """
    return layer.value("vjp_m2") * layer.channels * layer.positions


def _ratio(value: float, reference: float) -> float:
    if reference == 0:
        return nan if value == 0 else inf
    return value / reference


def _problem(ratio: float, limits: Limits) -> Problem | None:
    if ratio < limits.low:
        return "vanishing"
    return "exploding" if ratio > limits.high else None


def _limit(problem: Problem, limits: Limits) -> float:
    return limits.low if problem == "vanishing" else limits.high


def _gain(target: float, current: float) -> float:
    """Return the factor on the weights that changes one second moment to another."""
    return (target / current) ** 0.5 if isfinite(current) and current > 0 else 0.0
