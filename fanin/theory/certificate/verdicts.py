"""Verdicts: problems of a network's layers before training, and their combination per network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isnan, log
from typing import Literal

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
        Name, type and output shape of the layer.
    cause
        Property of the weights that causes the problem; "" if unknown.
    effect
        Consequence for training.
    torch_code
        Line of PyTorch code that fixes the problem; "" if there is none.
    override
        Override of `fanin run` that fixes the problem, for a model from a config.
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

    def __str__(self) -> str:
        return (
            f"{self.description or f'layer {self.layer}'} is {self.problem}: {self.message}."
            f" To fix: {self.remedy}{f': {self.torch_code}' if self.torch_code else '.'}"
        )

    def __repr__(self) -> str:
        return f"Verdict({self.layer!r}, {self.problem!r}, {self.quantity}: {self.message})"


@dataclass(frozen=True)
class Finding:
    """One problem of a network: verdicts with the same problem and quantity.

    Attributes
    ----------
    text
        The problem in words, with the first affected layer.
    cause, effect
        Cause and consequence for training, as sentences; "" if unknown.
    remedy
        Instruction that fixes the problem.
    torch_code, override
        Line of PyTorch code and override that fix the problem; "" if there are none.
    """

    text: str
    cause: str
    effect: str
    remedy: str
    torch_code: str
    override: str


def find_problems(verdicts: Sequence[Verdict]) -> list[Finding]:
    """Combine the verdicts of a network into one finding per problem and quantity."""
    groups: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault((verdict.problem, verdict.quantity), []).append(verdict)
    return [_finding(group) for group in groups.values()]


def _finding(verdicts: Sequence[Verdict]) -> Finding:
    # Gradients propagate from the last layer to the first.
    order = verdicts[::-1] if verdicts[0].quantity == "vjp_m2" else verdicts
    first = order[0]
    worst = max(order, key=_severity)
    name = first.description or f"layer {first.layer}"
    text = f"{_capitalize(name)} is {first.problem}: {first.message}"
    if order[1:]:
        text = (
            f"{_capitalize(worst.message)}; {len(order)} layers are {first.problem}, the first is"
            f" {name}"
        )
    return Finding(
        text=f"{text}.",
        cause=f"{_capitalize(first.cause)}." if first.cause else "",
        effect=f"{_capitalize(first.effect)}.",
        remedy=f"{_capitalize(first.remedy)}.",
        torch_code=first.torch_code,
        override=first.override,
    )


def _severity(verdict: Verdict) -> float:
    """Return the distance of a verdict's value from its limit; infinite for zero and NaN."""
    if isnan(verdict.value) or verdict.value == 0 or verdict.value == inf:
        return inf
    return abs(log(verdict.value / verdict.limit))


def _capitalize(text: str) -> str:
    return text[:1].upper() + text[1:]


class UnhealthyInit(AssertionError):
    """Error: the init of a network is unhealthy.

    Attributes
    ----------
    verdicts
        The problems, as a tuple of `Verdict`.
    """

    def __init__(self, verdicts: Sequence[Verdict]) -> None:
        lines = ["the init is unhealthy (attribute `verdicts` lists every layer):"]
        findings = find_problems(verdicts)
        lines += [
            f"  {' '.join(filter(None, (finding.text, finding.cause)))}" for finding in findings
        ]
        codes = dict.fromkeys(finding.torch_code or finding.remedy for finding in findings)
        lines += [f"  To fix: {code}" for code in codes]
        super().__init__("\n".join(lines))
        self.verdicts = tuple(verdicts)
