"""Verdicts: problems of a network's layers before training, and their combination per network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, isnan, log
from typing import Any, Literal

from fanin.diagnosis.finding import Finding
from fanin.theory.certificate.remedies import Remedy

Problem = Literal["vanishing", "exploding", "overflowing", "dead", "depth-unstable"]


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
        Value that was compared to the limit. For the limits `low` and `high` it is a ratio of
        squares.
    limit
        Limit that the value exceeds.
    message
        Description of the problem.
    remedy
        Instruction that fixes the problem.
    description
        Number, type, path and output shape of the layer.
    cause
        Property of the weights that causes the problem; "" if unknown.
    effect
        Consequence for training.
    torch_code
        PyTorch code that fixes the problem; "" if there is none.
    override
        Override of `fanin run` that fixes the problem, for a model from a config.
    change
        The remedy with its effect on predictions. `Certificate.fix` combines those of a network.
    """

    layer: str
    problem: Problem
    quantity: str
    value: float
    limit: float
    message: str
    remedy: str
    description: str = ""
    cause: str = ""
    effect: str = ""
    torch_code: str = ""
    override: str = ""
    change: Remedy | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return (
            f"{self.problem}: {self.message}."
            f" To fix: {self.remedy}{f': {self.torch_code}' if self.torch_code else '.'}"
        )

    def __repr__(self) -> str:
        return f"Verdict({self.layer!r}, {self.problem!r}, {self.quantity}: {self.message})"

    def as_dict(self) -> dict[str, Any]:
        """Return the verdict as a dictionary of text and numbers."""
        return {name: value for name, value in vars(self).items() if name != "change"}


@dataclass(frozen=True)
class NetworkProblem:
    """One problem of a network: verdicts with the same problem and quantity.

    Attributes
    ----------
    text
        The problem in words, with the first affected layer.
    cause
        Cause as a sentence; "" if unknown.
    """

    text: str
    cause: str


def find_problems(verdicts: Sequence[Verdict]) -> list[NetworkProblem]:
    """Combine the verdicts of a network into one problem per kind and quantity."""
    groups: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault((verdict.problem, verdict.quantity), []).append(verdict)
    return [_combine(group) for group in groups.values()]


def _combine(verdicts: Sequence[Verdict]) -> NetworkProblem:
    # Gradients propagate from the last layer to the first.
    order = verdicts[::-1] if verdicts[0].quantity == "vjp_m2" else verdicts
    first = order[0]
    worst = max(order, key=_severity)
    text = f"{_capitalize(first.problem)}: {first.message}"
    if order[1:]:
        text = (
            f"{_capitalize(worst.message)}; {len(order)} layers are {first.problem}, the first is"
            f" {first.description or first.layer}"
        )
    cause = next((verdict.cause for verdict in order if verdict.cause), "")
    return NetworkProblem(text=f"{text}.", cause=f"{_capitalize(cause)}." if cause else "")


MIXED = "mixed"  # vanishing in some layers and exploding in others
EFFECTS = {  # by problem of the signal and of the gradient; "" is none
    ("exploding", "exploding"): "the initial loss is huge and the gradients are largest in the"
    " early layers, so usual learning rates can give a loss of inf or NaN",
    ("exploding", "vanishing"): "the initial loss is huge, so usual learning rates can give a loss"
    " of inf or NaN; smaller ones hardly change the early layers",
    ("vanishing", "vanishing"): "all logits are near 0 and the early layers get almost no gradient,"
    " so the loss can start to fall late or never",
    ("vanishing", "exploding"): "all logits are near 0, and a learning rate that suits the later"
    " layers can make the early ones diverge",
    (MIXED, ""): "the outputs are far too large in some layers and far too small in others, so no"
    " learning rate suits all layers",
    ("", MIXED): "the gradients are far too large in some layers and far too small in others, so no"
    " learning rate suits all layers",
}


def training_effect(verdicts: Sequence[Verdict]) -> str:
    """Say in one or two sentences what the problems of a network do to its training.

    Examples
    --------
    >>> forward = Verdict("1", "vanishing", "preact_m2", 0.0, 1e-3, "", "", effect="logits are 0")
    >>> backward = Verdict("1", "vanishing", "vjp_m2", 0.0, 1e-3, "", "", effect="learns slowly")
    >>> training_effect([forward])
    'Logits are 0.'
    >>> training_effect([forward, backward]).startswith("All logits are near 0 and the early")
    True
    """
    signal, gradient = (_summary(verdicts, quantity) for quantity in ("preact_m2", "vjp_m2"))
    overflows = [
        verdict.effect
        for verdict in verdicts
        if verdict.problem == "overflowing" or "NaN from the first" in verdict.effect
    ]
    own = {
        quantity: next((v.effect for v in verdicts if v.quantity == quantity), "")
        for quantity in ("preact_m2", "vjp_m2", "dead_fraction", "log_sensitivity")
    }
    if overflows:
        effects = [overflows[0]]
    elif (signal, gradient) in EFFECTS:
        effects = [EFFECTS[signal, gradient]]
    elif MIXED in (signal, gradient):
        effects = [EFFECTS[(MIXED, "")] if signal == MIXED else EFFECTS[("", MIXED)]]
    else:
        effects = [own["preact_m2"] or own["vjp_m2"]]
    effects += [own["dead_fraction"], own["log_sensitivity"]]
    return " ".join(f"{_capitalize(effect)}." for effect in effects if effect)


def _summary(verdicts: Sequence[Verdict], quantity: str) -> str:
    """Return the problem of a quantity: vanishing, exploding, mixed, or "" for none."""
    problems = {verdict.problem for verdict in verdicts if verdict.quantity == quantity}
    return MIXED if len(problems) > 1 else next(iter(problems), "")


def _severity(verdict: Verdict) -> float:
    """Return the distance of a verdict's value from its limit; infinite for zero and NaN."""
    if isnan(verdict.value) or verdict.value == 0 or verdict.value == inf:
        return inf
    return abs(log(verdict.value / verdict.limit))


def _capitalize(text: str) -> str:
    return text[:1].upper() + text[1:]


class UnhealthyInit(AssertionError):
    """Error: the init of a network is unhealthy.

    Parameters
    ----------
    verdicts
        The problems.
    heading, remedies
        Introduction of the changes that fix the network, and the changes. None uses those of the
        verdicts.
    findings
        Problems of the images.

    Attributes
    ----------
    verdicts
        The problems of layers, as a tuple of `Verdict`.
    findings
        The problems of the images, as a tuple of `Finding`.
    """

    def __init__(
        self,
        verdicts: Sequence[Verdict],
        heading: str = "To fix",
        remedies: Sequence[Remedy] | None = None,
        findings: Sequence[Finding] = (),
    ) -> None:
        lines = []
        for finding in findings:
            lines += [f"{_capitalize(finding.text)}", f"  To fix: {finding.fix}"]
        if verdicts:
            lines += ["the init is unhealthy (attribute `verdicts` lists every layer):"]
            problems = find_problems(verdicts)
            lines += [f"  {problem.text}" for problem in problems]
            causes = dict.fromkeys(problem.cause for problem in problems if problem.cause)
            lines += [f"  Cause: {cause}" for cause in causes]
            if remedies is None:
                remedies = list(dict.fromkeys(v.change for v in verdicts if v.change))
            lines.append(f"  {heading}:")
            for remedy in remedies:
                code = remedy.torch_code or _capitalize(remedy.text)
                lines += [f"    {line}" for line in code.splitlines()]
        super().__init__("\n".join(lines))
        self.verdicts = tuple(verdicts)
        self.findings = tuple(findings)
