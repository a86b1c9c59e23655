"""Print a certificate: the verdict, a row per layer and notes; with `verbose` all predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sized
from math import isfinite, isnan
from typing import Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from fanin.diagnosis.finding import Finding
from fanin.text import (
    Fitted,
    number,
    percent,
    shorten_path,
    terminal_width,
)
from fanin.theory.certificate.fixes import Fix
from fanin.theory.certificate.measured import sharpness_note
from fanin.theory.certificate.notes import (
    SIMULATED_MARK,
    has_mixed_methods,
    method_notes,
    zero_notes,
)
from fanin.theory.certificate.predicted_value import PredictedValue
from fanin.theory.certificate.record import (
    LayerCertificate,
    OutputCertificate,
    relative_units,
)
from fanin.theory.certificate.segments import MEASURED, RESTART_DRAWS, THEORY
from fanin.theory.certificate.verbose import render_details
from fanin.theory.certificate.verdicts import Verdict, find_problems, training_effect

PRESCRIBE_HINT = (
    "print(fanin.prescribe(model, images).torch_code) prints an init computed for these images."
)
PARAMS = "params"
# Width of the path, sizes of the module, number of parameters: from the widest table on.
TABLE_VARIANTS = ((32, True, True), (24, False, True), (16, False, True), (12, False, False))
CellFormatter = Callable[[LayerCertificate], str]


class PrintableInputs(Protocol):
    """Images of a certificate, and their number before subsampling."""

    @property
    def images(self) -> Sized: ...
    @property
    def n_given(self) -> int: ...


class PrintableCertificate(Protocol):
    """Attributes of a certificate that are printed."""

    @property
    def layers(self) -> tuple[LayerCertificate, ...]: ...
    @property
    def output(self) -> OutputCertificate: ...
    @property
    def verdicts(self) -> tuple[Verdict, ...]: ...
    @property
    def input_findings(self) -> tuple[Finding, ...]: ...
    @property
    def fix(self) -> Fix: ...
    @property
    def theories(self) -> tuple[str, ...]: ...
    @property
    def moments(self) -> str: ...
    @property
    def overflows_at(self) -> Mapping[str, str | None]: ...
    @property
    def unpredicted(self) -> Mapping[str, str]: ...
    @property
    def sharpness(self) -> Mapping[str, float]: ...
    @property
    def loss(self) -> str: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def inputs(self) -> PrintableInputs: ...


def print_certificate(
    certificate: PrintableCertificate,
    title: str = "",
    width: int | None = None,
    *,
    verbose: bool = False,
    from_config: bool = False,
) -> None:
    """Print a certificate: the verdict, a row per layer, and the logits.

    Parameters
    ----------
    certificate
        Result of `certify`.
    title
        Title, printed above the verdict.
    width
        Width in columns. None uses the width of the terminal, but at least 100.
    verbose
        Also print the table of all predicted moments, with the names of the theories.
    from_config
        Print the overrides of `fanin run` that fix the problems, for a model from a config.
    """
    console = Console(width=width or terminal_width(), markup=False, highlight=False)
    console.print(render(certificate, title, verbose=verbose, from_config=from_config))


def render(
    certificate: PrintableCertificate,
    title: str = "",
    *,
    verbose: bool = False,
    from_config: bool = False,
) -> Group:
    """Return the certificate as a rich renderable."""
    parts: list[RenderableType] = [Text(title, style="bold")] if title else []
    parts += _verdict(certificate, from_config)
    parts += [Text(), _layer_table(certificate), Text()]
    parts += [Text(line) for line in _notes(certificate)]
    if verbose:
        parts += [Text(), *render_details(certificate.layers, certificate.theories)]
    return Group(*parts)


def _verdict(certificate: PrintableCertificate, from_config: bool) -> list[RenderableType]:
    problems = find_problems(certificate.verdicts)
    scales_images = any(r.torch_code.startswith("images") for r in certificate.fix.remedies)
    lines: list[RenderableType] = []
    for finding in certificate.input_findings:
        text = f"{finding.text[:1].upper()}{finding.text[1:]}"
        lines.append(Text.assemble(("✗ ", "bold red"), (text, "red")))
        if not scales_images:
            lines.append(Text.assemble(("→ ", "bold green"), f"To fix: {finding.fix}"))
    if not problems:
        return [*lines, _healthy(certificate)]
    lines += [Text.assemble(("✗ ", "bold red"), (problem.text, "red")) for problem in problems]
    causes = dict.fromkeys(problem.cause for problem in problems if problem.cause)
    lines += [_indented(f"Cause: {cause}", 2) for cause in causes]
    lines.append(_indented(f"Training: {training_effect(certificate.verdicts)}", 2))
    lines += _fix(certificate.fix, from_config)
    if any(verdict.quantity == "preact_m2" for verdict in certificate.verdicts):
        lines.append(Text(PRESCRIBE_HINT))
    return lines


def _fix(fix: Fix, from_config: bool) -> list[RenderableType]:
    heading = Text.assemble(("→ ", "bold green"), f"{fix.heading}:")
    lines: list[RenderableType] = [heading]
    several = len(fix.remedies) > 1
    for index, remedy in enumerate(fix.remedies, start=1):
        text = f"{remedy.text[:1].upper()}{remedy.text[1:]}."
        if several:
            lines.append(_indented(f"{index}. {text}", 2))
        else:
            heading.append(f" {text}")
        if remedy.torch_code:
            lines.append(_indented(remedy.torch_code, 4, "cyan"))
        if from_config and remedy.override:
            lines.append(_indented(f"In a config: {remedy.override}", 4, "cyan"))
    return lines


def _indented(text: str, columns: int, style: str = "") -> Padding:
    return Padding(Text(text, style=style), (0, 0, 0, columns), expand=False)


def _healthy(certificate: PrintableCertificate) -> Text:
    layers = certificate.layers
    ranges = [f"an rms {_range([_root(layer.q) for layer in layers])}"]
    norms = [
        _root(layer.value("vjp_m2") * relative_units(layer, layers[-1])) for layer in layers[:-1]
    ]
    if norms and not any(isnan(norm) for norm in norms):
        ranges.append(f"gradients {_range(norms)} times those at the logits")
    unchecked = {
        "gradients": all(isnan(norm) for norm in norms),
        "dead units": all(isnan(layer.dead_fraction) for layer in layers),
    }
    missing = [name for name, is_missing in unchecked.items() if is_missing]
    note = f" Not checked: {', '.join(missing)}." if missing else ""
    return Text.assemble(
        ("✓ Healthy" if not certificate.input_findings else "Otherwise healthy", "bold green"),
        ": no layer vanishes, explodes, overflows, is dead, or differs much between draws.",
        f" The outputs of the {len(layers)} layers have {' and '.join(ranges)}.{note}",
    )


def _range(values: list[float]) -> str:
    low, high = number(min(values), 2), number(max(values), 2)
    return f"of {low}" if low == high else f"between {low} and {high}"


def _layer_table(certificate: PrintableCertificate) -> Fitted:
    columns = _columns(certificate)
    unhealthy = {verdict.layer for verdict in certificate.verdicts}
    tables = []
    for path_width, has_sizes, has_params in TABLE_VARIANTS:
        table = Table(
            *(Column("#", justify="right"), Column("path", no_wrap=True)),
            *(Column("type", no_wrap=True), Column("output", justify="right", no_wrap=True)),
            box=SIMPLE_HEAD,
            pad_edge=False,
            show_edge=False,
            padding=(0, 1, 0, 0),
            header_style="bold",
        )
        shown = {name: column for name, column in columns.items() if has_params or name != PARAMS}
        for heading in shown:
            table.add_column(Text(heading), justify="right", no_wrap=True)
        for layer in certificate.layers:
            mark = {THEORY: "", MEASURED: "†"}.get(layer.basis, "*")
            module = layer.module if has_sizes else layer.module.partition("(")[0]
            texts = [
                *(f"{layer.layer}", shorten_path(layer.name, path_width) + mark),
                *(module, layer.shape_text),
                *(format_cell(layer) for format_cell in shown.values()),
            ]
            table.add_row(*map(Text, texts), style="red" if layer.name in unhealthy else "")
        tables.append(table)
    return Fitted(tables)


def _columns(certificate: PrintableCertificate) -> dict[str, CellFormatter]:
    """Return the formatters of all columns that are not empty, by heading.

    Measured values replace some predicted columns, to limit the width.
    """
    layers = certificate.layers
    last = layers[-1]
    has_measured = any(layer.measured for layer in layers)
    is_mixed = has_mixed_methods(layers)
    columns: dict[str, CellFormatter] = {
        PARAMS: lambda layer: f"{layer.parameters:,}",
        "signal": lambda layer: _rms(layer.predicted.get("preact_m2"), 1.0),
        "95 %": lambda layer: _interval(layer.predicted.get("preact_m2"), 1.0, is_mixed),
        "measured": lambda layer: _measured(layer, "preact_m2", 1.0),
        "gradient": lambda layer: _rms(layer.predicted.get("vjp_m2"), relative_units(layer, last)),
        "95 % ": lambda layer: (
            ""
            if has_measured
            else _interval(layer.predicted.get("vjp_m2"), relative_units(layer, last), is_mixed)
        ),
        "measured ": lambda layer: _measured(layer, "vjp_m2", relative_units(layer, last)),
        "dead": lambda layer: "" if has_measured else percent(layer.dead_fraction),
    }
    return {
        heading: format_cell
        for heading, format_cell in columns.items()
        if any(format_cell(layer) for layer in layers)
    }


def _rms(predicted: PredictedValue | None, factor: float) -> str:
    """Format the root of a second moment times a factor; NaN prints as nan."""
    return "" if predicted is None else number(_root(predicted.value * factor)) or "nan"


def _root(value: float) -> float:
    return value**0.5 if value >= 0 else float("nan")


def _interval(predicted: PredictedValue | None, factor: float, is_mixed: bool) -> str:
    if predicted is None or predicted.interval is None:
        return ""
    low, high = (number((bound * factor) ** 0.5, 2) for bound in predicted.interval)
    if low == high:  # the gradient at the logits, which is fixed
        return ""
    mark = SIMULATED_MARK if is_mixed and predicted.distribution.method == "simulated" else ""
    return f"{low}–{high}{mark}"


def _measured(layer: LayerCertificate, quantity: str, factor: float) -> str:
    if quantity not in layer.measured:
        return ""
    mean, error = layer.measured[quantity]
    rms = _root(mean * factor)
    if not rms > 0 or not isfinite(rms) or not error > 1e-9 * mean:  # the last gradient is fixed
        return number(rms)
    return f"{number(rms)}±{number(error * factor / (2 * rms), 1)}"


def _notes(certificate: PrintableCertificate) -> list[str]:
    layers, output = certificate.layers, certificate.output
    labels = {layer.name: layer.label for layer in layers}
    explanations = ["signal: rms of the layer's output, before the activation"]
    if any("vjp_m2" in layer.predicted for layer in layers):
        explanations.append(
            "gradient: norm of the gradient with respect to that output, relative to the logits"
        )
    if any(layer.interval for layer in layers):
        explanations.append("95 %: interval for one draw of the weights")
    lines = ["; ".join(explanations) + "."]
    losses = [f"{name} {number(loss)}" for name, loss in output.initial_loss.items()]
    lines.append(f"{output.n_logits} logits with standard deviation {_rms_text(output.logit_var)}")
    if losses:
        lines[-1] += "; expected loss before training: " + ", ".join(losses)
    lines[-1] += "."
    if certificate.moments == "estimated":
        lines.append("Mean and variance of the weights are estimated from the model's weights.")
    used, n_given = len(certificate.inputs.images), certificate.inputs.n_given
    if used < n_given:
        lines.append(f"All numbers are for {used} of the {n_given} images, evenly spaced.")
    lines += [*method_notes(layers), *zero_notes(layers), *certificate.notes]
    if any(layer.basis == MEASURED for layer in layers):
        lines.append(f"† measured in {RESTART_DRAWS} new draws, not predicted (the signal).")
    names_by_reason: dict[str, list[str]] = {}
    for name, reason in certificate.unpredicted.items():
        names_by_reason.setdefault(reason, []).append(f'"{name}"')
    for reason, names in names_by_reason.items():
        lines.append(f"* predicted from measured activations of {', '.join(names)}: {reason}")
    for dtype, overflowing in certificate.overflows_at.items():
        if overflowing is not None:
            lines.append(f"{dtype} overflows from {labels[overflowing]} on.")
    lines += _sharpness(certificate)
    return lines


def _rms_text(variance: float) -> str:
    return number(_root(variance))


def _sharpness(certificate: PrintableCertificate) -> list[str]:
    if "" not in certificate.sharpness:
        return []
    whole = certificate.sharpness[""]
    if not whole > 0:
        return [
            f"Sharpness {whole:.3g} (one draw): the loss has no direction of positive curvature."
        ]
    layers = {name: value for name, value in certificate.sharpness.items() if name}
    labels = {layer.name: layer.label for layer in certificate.layers}
    sharpest = max(layers, key=lambda name: layers[name])
    return [
        f"Sharpness {number(whole)} (one draw; largest of a single layer:"
        f" {labels.get(sharpest, sharpest)},"
        f" {number(layers[sharpest])}). 2/sharpness = {number(2 / whole)} is"
        f" {sharpness_note(certificate.loss)}."
    ]
