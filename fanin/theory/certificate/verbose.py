"""Table of all predicted moments of a certificate, with the names of the theories."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from fanin.text import number, percent
from fanin.theory.certificate.record import LayerCertificate

CellFormatter = Callable[[LayerCertificate], str]


def render_details(
    layers: Sequence[LayerCertificate], theories: Sequence[str]
) -> list[RenderableType]:
    """Return the table and its title."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    columns = _columns(layers)
    table.add_column("#", justify="right")
    table.add_column("layer", no_wrap=True, max_width=16)
    for heading in columns:
        table.add_column(Text(heading), justify="right", no_wrap=True)
    for layer in layers:
        cells = [format_cell(layer) for format_cell in columns.values()]
        table.add_row(str(layer.layer), Text(layer.name), *map(Text, cells))
    used = [theory for theory in theories if any(theory in layer.theories for layer in layers)]
    title = f"Second moments (theories: {', '.join(used)}; δ: random cotangent of mean square 1)"
    return [Text(title, style="bold"), table]


def _columns(layers: Sequence[LayerCertificate]) -> dict[str, CellFormatter]:
    """Return the formatters of all columns that are not empty, by heading.

    Measured values replace some predicted columns, to limit the width.
    """
    has_measured = any(layer.measured for layer in layers)
    columns: dict[str, CellFormatter] = {
        "He": lambda layer: _format(layer.theories.get("he", {}), "preact_m2", 2),
        "mean": lambda layer: "" if has_measured else _predicted(layer, "preact_mean", 2),
        "E[y²]": lambda layer: _predicted(layer, "preact_m2"),
        "95 % of draws": _interval,
        "measured": lambda layer: _measured(layer, "preact_m2"),
        "method": lambda layer: layer.method,
        "zeros": lambda layer: "" if has_measured else percent(layer.value("act_zero_fraction")),
        "corr": lambda layer: "" if has_measured else number(layer.value("input_correlation"), 2),
        "E[δ²]": lambda layer: _predicted(layer, "vjp_m2"),
        "measured δ²": lambda layer: _measured(layer, "vjp_m2"),
        "E[∂W²]": lambda layer: "" if has_measured else _predicted(layer, "weight_vjp_m2", 2),
        "χ₁": lambda layer: "" if has_measured or not layer.depth else number(layer.depth.chi_1, 2),
    }
    return {
        heading: format_cell
        for heading, format_cell in columns.items()
        if any(format_cell(layer) for layer in layers)
    }


def _predicted(layer: LayerCertificate, quantity: str, digits: int = 3) -> str:
    values = {name: prediction.value for name, prediction in layer.predicted.items()}
    return _format(values, quantity, digits)


def _format(values: Mapping[str, float], quantity: str, digits: int) -> str:
    """Format a value; a predicted NaN prints as nan, a missing prediction as an empty string."""
    return f"{values[quantity]:.{digits}g}" if quantity in values else ""


def _interval(layer: LayerCertificate) -> str:
    if layer.interval is None:
        return ""
    return "–".join(number(bound, 2) for bound in layer.interval)


def _measured(layer: LayerCertificate, quantity: str) -> str:
    if quantity not in layer.measured:
        return ""
    mean, error = layer.measured[quantity]
    shown_error = number(error, 1)
    return f"{number(mean)}±{shown_error}" if shown_error else number(mean)
