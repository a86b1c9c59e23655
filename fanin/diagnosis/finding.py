"""Result of `diagnose`: findings, each with a cause, evidence and a fix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fanin.text import to_html, to_text

# In the order in which `diagnose` tests them.
Cause = Literal[
    "nonfinite_input",
    "outlying_input",
    "input_scale",
    "nonfinite_weight",
    "batchnorm_batch_of_one",
    "overflow",
    "dead_units",
    "double_softmax",
    "log_of_zero",
    "loss_mismatch",
    "exploding_gradients",
    "vanishing_gradients",
    "init",
    "identical_units",
    "learning_rate",
]
CAUSES: tuple[Cause, ...] = get_args(Cause)
INDENT = 4  # of code


@dataclass(frozen=True)
class Finding:
    """One reason why a network does not train.

    Attributes
    ----------
    cause
        Name of the cause, one of `CAUSES`.
    text
        The problem and its consequence in words.
    layer
        Module path of the layer where the problem shows, or `input`, `targets`, `output`, `loss` or
        `optimizer`.
    evidence
        The measured numbers by name.
    fix
        Lines of PyTorch code that fix the problem.
    """

    cause: Cause
    text: str
    layer: str
    evidence: dict[str, float]
    fix: str

    @property
    def page(self) -> str:
        """Section of the documentation about this cause."""
        return f"docs/diagnose.md#{self.cause}"

    def __str__(self) -> str:
        return to_text(self.__rich__())

    def __rich__(self) -> RenderableType:
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in self.evidence.items())
        lines = [Text.assemble((f"{self.cause} ({self.layer}): ", "bold red"), self.text)]
        if numbers:
            lines.append(Text(f"Measured: {numbers}."))
        lines.append(Text("To fix:"))
        code = Padding(Text(self.fix, style="cyan"), (0, 0, 0, INDENT))
        return Group(*lines, code, Text(f"More: {self.page}", style="dim"))


@dataclass(frozen=True)
class Diagnosis:
    """Result of `diagnose`.

    Attributes
    ----------
    findings
        The problems, root cause first. Empty if none was found.
    checked
        The checks that were made, in words.
    not_checked
        The checks that were not made, each with the reason.
    """

    findings: tuple[Finding, ...]
    checked: tuple[str, ...] = ()
    not_checked: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """True if nothing was found."""
        return not self.findings

    def __str__(self) -> str:
        return to_text(self.__rich__())

    def __repr__(self) -> str:
        causes = ", ".join(f"{finding.cause} at {finding.layer}" for finding in self.findings)
        return f"Diagnosis({causes or 'ok'})"

    def _repr_html_(self) -> str:
        return to_html(self.__rich__())

    def __rich__(self) -> RenderableType:
        if self.ok:
            parts: list[RenderableType] = [
                Text.assemble(("✓ No problem found", "bold green"), f" in: {_join(self.checked)}.")
            ]
        elif len(self.findings) == 1:
            parts = [Text("✗ 1 problem found.", style="bold red")]
        else:
            parts = [
                Text(
                    f"✗ {len(self.findings)} problems found. Fix the first one, then run diagnose"
                    " again.",
                    style="bold red",
                )
            ]
        for number, finding in enumerate(self.findings, start=1):
            row = Table.grid(padding=(0, 1, 0, 0))
            row.add_row(f"{number}.", finding)
            parts += [Text(""), row]
        if self.findings:
            parts += [Text(""), Text("Problems that disappear with these fixes are not listed.")]
        if self.not_checked:
            parts += [Text(""), Text(f"Not checked: {'; '.join(self.not_checked)}.")]
        return Group(*parts)


def _join(texts: Sequence[str]) -> str:
    return ", ".join(texts)
