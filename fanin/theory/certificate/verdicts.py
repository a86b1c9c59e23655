"""Verdicts: the unhealthy layers of a network before it is trained, each with a remedy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf, isfinite, isnan, nan
from typing import Literal

from fanin.theory.certificate.record import LayerCertificate

MAX_SHOWN = 8  # lines of an error message
Problem = Literal["vanishing", "exploding", "overflowing", "dead", "depth-unstable"]


@dataclass(frozen=True)
class Limits:
    """Limits of a healthy init.

    Parameters
    ----------
    low, high
        How far the second moment of the pre-activations may move away from the first layer's, and
        the whole cotangent (summed over units and positions) from the logits'. A thousandfold is a
        factor 30 in scale: more than one learning rate for all layers serves well, and what three
        decades a few layers deep become with depth is the failure of He et al. 2015, figure 3 (a
        second moment of 2^-29 after 30 layers). It is a cautious limit: 22 layers at 2^-21 still
        trained there, only slower.
    dtype
        `float32`, `bfloat16` or `float16`: what the network will run in.
    max_overflow
        Largest accepted chance of an overflow.
    max_dead
        The share of units that may be dead on the whole batch. A half is normal in a deep
        rectifier net whose inputs have become alike (derivations.md, 7); nine tenths are not.
    max_sensitivity
        By how much a relative error of a second moment may be amplified over the whole net. At 2
        a network's own scatter is twice what its width makes, and no gain holds over several nets.
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
        Its name.
    problem
        `vanishing`, `exploding`, `overflowing`, `dead`, `depth-unstable`.
    quantity, value, limit
        What was looked at, relative to what the limit is relative to.
    message, remedy
        For people.
    """

    layer: str
    problem: Problem
    quantity: str
    value: float
    limit: float
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.layer} is {self.problem}: {self.message}; {self.remedy}"


class UnhealthyInit(AssertionError):
    """A network's init is unhealthy; `verdicts` says how."""

    def __init__(self, found: Sequence[Verdict]) -> None:
        lines = [f"  {verdict}" for verdict in found[:MAX_SHOWN]]
        if len(found) > MAX_SHOWN:
            lines.append(f"  and {len(found) - MAX_SHOWN} more (.verdicts has them all)")
        super().__init__("\n".join(["this init is unhealthy:", *lines]))
        self.verdicts = tuple(found)


def judge(layers: Sequence[LayerCertificate], limits: Limits | None = None) -> tuple[Verdict, ...]:
    """Find the unhealthy layers of a network.

    Parameters
    ----------
    layers
        `Certificate.layers`.
    limits
        Defaults to `Limits()`.

    Returns
    -------
    tuple of Verdict
        In forward order within each problem; empty for a healthy init. Quantities that no theory
        predicted are not judged.
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
            "its pre-activations are not numbers",
            "look for NaN or infinity in the images",
        )
    if first > limits.high:
        gain = _gain(1.0, first)
        yield Verdict(
            *(layers[0].name, "exploding", "preact_m2", first, limits.high),
            f"its pre-activations have second moment {first:.3g}",
            f"scale the images, or multiply its gain by {gain:.3g}",
        )
    for before, layer in pairwise(layers):
        ratio = _ratio(layer.q, first)
        problem = _problem(ratio, limits)
        if problem is None:
            continue
        remedy = "lower the gains before it; prescribe() finds them"
        if layer.q == 0:
            remedy = "its weights or its inputs are all zero: no gain mends that"
        elif isfinite(layer.q):
            gain = _gain(before.q, layer.q)
            remedy = (
                f"multiply init.layers.{layer.name}.gain by {gain:.3g} to keep {before.name}'s"
                " level; prescribe() finds all gains"
            )
        yield Verdict(
            *(layer.name, problem, "preact_m2", ratio, _limit(problem, limits)),
            f"E[y^2] = {layer.q:.3g} is {ratio:.3g} times {layers[0].name}'s",
            remedy,
        )


def _backward(layers: Sequence[LayerCertificate], limits: Limits) -> Iterator[Verdict]:
    # The last hidden layer is the measure: a small output layer is often meant, and a global
    # average just before it shares the cotangent out, which is no loss.
    hidden = layers[:-1]
    if not hidden or not _total_m2(hidden[-1]) > 0:
        return
    for layer, above in pairwise(hidden):
        ratio = _ratio(_total_m2(layer), _total_m2(hidden[-1]))
        problem = _problem(ratio, limits)
        if problem is None:
            continue
        remedy = "lower the gains above it"
        if _total_m2(layer) == 0:
            remedy = f"what lies between it and {above.name} has slope 0 (dead or saturated)"
        elif isfinite(_total_m2(layer)):
            gain = _gain(_total_m2(above), _total_m2(layer))
            remedy = (
                f"multiply init.layers.{above.name}.gain by {gain:.3g} to keep the cotangent's"
                ' level; prescribe(direction="backward") finds all gains'
            )
        yield Verdict(
            *(layer.name, problem, "vjp_m2", ratio, _limit(problem, limits)),
            f"the cotangent that reaches it is {ratio:.3g} times {hidden[-1].name}'s",
            remedy,
        )


def _overflow(layers: Sequence[LayerCertificate], limits: Limits) -> Iterator[Verdict]:
    for layer in layers:
        chance = layer.overflow.get(limits.dtype, nan)
        if chance > limits.max_overflow:
            yield Verdict(
                *(layer.name, "overflowing", "overflow", chance, limits.max_overflow),
                f"its pre-activations overflow {limits.dtype} with chance {chance:.3g}",
                "lower the gain here or before, or use a wider dtype",
            )


def _dead(layers: Sequence[LayerCertificate], limits: Limits) -> Iterator[Verdict]:
    for layer in layers:
        if layer.dead_fraction > limits.max_dead:
            yield Verdict(
                *(layer.name, "dead", "dead_fraction", layer.dead_fraction, limits.max_dead),
                f"{layer.dead_fraction:.0%} of its units are zero on every image",
                "center its weights or raise its biases (init.layers.NAME.bias)",
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
                f"a relative error of the second moment is {amplified:.3g} times as large behind"
                " it as at the first layer",
                "raise the second moment (GELU and SiLU then act as rectifiers), use fewer such"
                " layers, or normalize",
            )
            return  # it compounds: every later layer would say the same


def _total_m2(layer: LayerCertificate) -> float:
    """Of the whole cotangent: He init keeps it through rectifiers, whatever the widths."""
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


def _gain(wanted: float, found: float) -> float:
    """Return the factor of the weights that turns one second moment into another."""
    return (wanted / found) ** 0.5 if isfinite(found) and found > 0 else 0.0
