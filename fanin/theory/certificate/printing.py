"""A certificate for the terminal, within 100 columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isnan

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from fanin.theory.certificate.certificate import Certificate
from fanin.theory.certificate.learning_rate import meaning
from fanin.theory.certificate.record import LayerCertificate
from fanin.theory.certificate.verdicts import verdicts

MOST_VERDICTS = 6
NARROWEST = 100  # columns that the table needs at most
Cell = Callable[[LayerCertificate], str]


def print_certificate(certificate: Certificate, title: str = "", width: int | None = None) -> None:
    """Print the table, what follows for the logits, and what is unhealthy."""
    # Narrower, numbers would be cut; a terminal that is wraps lines instead.
    width = width or max(NARROWEST, Console().width)
    Console(width=width, markup=False, highlight=False).print(as_renderable(certificate, title))


def as_renderable(certificate: Certificate, title: str = "") -> Group:
    """The certificate as rich sees it."""
    parts: list[RenderableType] = [_table(certificate, title)]
    parts += [Text(line) for line in _notes(certificate)]
    return Group(*parts)


def _table(certificate: Certificate, title: str) -> Table:
    table = Table(
        title=title or None,
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    columns = _columns(certificate)
    table.add_column("", justify="right")
    table.add_column("layer", no_wrap=True, max_width=16)
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for layer in certificate.layers:
        cells = [cell(layer) for cell in columns.values()]
        mark = "*" if layer.restarted_at is not None else ""
        table.add_row(str(layer.layer), layer.name + mark, *cells)
    return table


def _columns(certificate: Certificate) -> dict[str, Cell]:
    """Headings and what stands under them; what no layer has is left out.

    Measured numbers take the place of some predicted ones: a terminal is only so wide.
    """
    layers = certificate.layers
    beside = any(layer.measured for layer in layers)
    every: dict[str, Cell] = {
        "He": lambda layer: _told(layer.rungs.get("he", {}), "preact_m2", 2),
        "mean": lambda layer: "" if beside else _predicted(layer, "preact_mean", 2),
        "E[y²]": lambda layer: _predicted(layer, "preact_m2"),
        "95 % of draws": _interval,
        "measured": lambda layer: _measured(layer, "preact_m2"),
        "zeros": lambda layer: "" if beside else percent(layer.value("act_zero_fraction")),
        "dead": lambda layer: percent(layer.dead_fraction),
        "corr": lambda layer: "" if beside else number(layer.value("input_correlation"), 2),
        "E[δ²]": lambda layer: _predicted(layer, "vjp_m2"),
        "measured δ²": lambda layer: _measured(layer, "vjp_m2"),
        "E[∂W²]": lambda layer: "" if beside else _predicted(layer, "weight_vjp_m2", 2),
        "χ₁": lambda layer: "" if beside or not layer.depth else number(layer.depth.chi_1, 2),
    }
    return {
        heading: cell for heading, cell in every.items() if any(cell(layer) for layer in layers)
    }


def _predicted(layer: LayerCertificate, quantity: str, digits: int = 3) -> str:
    return _told({name: each.value for name, each in layer.predicted.items()}, quantity, digits)


def _told(values: Mapping[str, float], quantity: str, digits: int) -> str:
    """A predicted NaN (images with missing pixels) is told from what nobody predicted."""
    return f"{values[quantity]:.{digits}g}" if quantity in values else ""


def _interval(layer: LayerCertificate) -> str:
    if layer.interval is None:
        return ""
    low, high = layer.interval
    return f"{number(low, 2)}–{number(high, 2)}"


def _measured(layer: LayerCertificate, quantity: str) -> str:
    if quantity not in layer.measured:
        return ""
    mean, error = layer.measured[quantity]
    return number(mean) if isnan(error) else f"{number(mean)}±{number(error, 1)}"


def number(value: float, digits: int = 3) -> str:
    """Short, and empty for what is unknown."""
    return "" if isnan(value) else f"{value:.{digits}g}"


def percent(share: float) -> str:
    """A share as a percentage, and empty for what is unknown."""
    return "" if isnan(share) else f"{share:.0%}"


def _notes(certificate: Certificate) -> list[str]:
    output = certificate.output
    losses = [f"{name} {number(loss)}" for name, loss in output.initial_loss.items()]
    logits = f"{output.n_logits} logits, variance {number(output.logit_var)}"
    lines = [
        "; ".join([logits, *(["loss before training: " + ", ".join(losses)] if losses else [])])
    ]
    if certificate.moments == "estimated":
        lines.append("weight moments estimated from the model's own tensors (one draw)")
    for name, reason in certificate.unpredicted.items():
        lines.append(f"* after {name} from measured moments: {reason}")
    for dtype, layer in certificate.overflows_at.items():
        if layer is not None:
            lines.append(f"{dtype} overflows from {layer} on")
    lines += _sharpness(certificate)
    found = verdicts(certificate)
    lines += [str(verdict) for verdict in found[:MOST_VERDICTS]]
    if len(found) > MOST_VERDICTS:
        lines.append(f"and {len(found) - MOST_VERDICTS} more")
    return lines if found else [*lines, "healthy: nothing vanishes, explodes, overflows or is dead"]


def _sharpness(certificate: Certificate) -> list[str]:
    if "" not in certificate.sharpness:
        return []
    whole = certificate.sharpness[""]
    if not whole > 0:
        return [f"sharpness {whole:.3g} (one draw): the loss is flat, or curves down everywhere"]
    layers = {name: value for name, value in certificate.sharpness.items() if name}
    sharpest = max(layers, key=lambda name: layers[name])
    return [
        f"sharpness {number(whole)} (one draw; of single layers most in {sharpest}:"
        f" {number(layers[sharpest])}), 2/sharpness {number(2 / whole)}:"
        f" {meaning(certificate.loss)}"
    ]
