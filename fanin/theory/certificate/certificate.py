"""`Certificate`: predictions for every layer of one network, as data and as a printed table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from fanin.theory.certificate.measured import sharpness_note
from fanin.theory.certificate.notes import SIMULATED_MARK, method_notes, zero_notes
from fanin.theory.certificate.record import LayerCertificate, OutputCertificate, to_json_types
from fanin.theory.certificate.verdicts import Verdict, judge
from fanin.theory.certificate.weights import WeightMoments
from fanin.theory.field import Sampling, propagate_field
from fanin.theory.layer_kind import LayerKind
from fanin.theory.moments import LayerMoments

MAX_VERDICTS = 6
MIN_WIDTH = 100  # columns of the widest table
CellFormatter = Callable[[LayerCertificate], str]
Map = Float[np.ndarray, "image *position"]


@dataclass(frozen=True)
class MomentMaps:
    """Moments over draws of the weights, at each position of each image.

    Attributes
    ----------
    mean
        E[y(p)] of the pre-activation.
    m2
        E[y(p)^2] of the pre-activation.
    vjp_m2
        E[d(p)^2] of the cotangent.
    """

    mean: Map
    m2: Map
    vjp_m2: Map


@dataclass(frozen=True)
class CertificateInputs:
    """Network, images and settings of a certificate, for computing further predictions."""

    model: nn.Module
    images: Float[Tensor, "image ..."]
    weights: WeightMoments
    seed: int
    layer_kinds: tuple[LayerKind, ...] = ()


@dataclass(frozen=True)
class Certificate:
    """Predictions for every layer of one network before training. Created by `certify`.

    Attributes
    ----------
    layers
        A record per weight layer, in forward order.
    output
        Predictions for the logits.
    frame
        Rows of the table `predictions`, for every image and their mean (-1). Instead of `cell_id`
        there is the column `basis`: `theory` or `measured restart`.
    theories
        Names of the requested theories.
    moments
        Source of the weight moments: `declared` by the init, `given`, or `estimated` from the
        model's current weights.
    overflows_at
        By dtype, the first layer with an overflow probability above 1/2, or None.
    inputs
        Network, images and settings.
    draws
        Measured draws, with columns `draw`, `image`, `layer`, `layer_name`, `quantity`, `value`;
        empty without measurement.
    unpredicted
        By name of each layer without a formula, the reason; empty without `restart`.
    sharpness
        Largest Hessian eigenvalue of one draw by layer, and for the whole network under the key
        ""; empty unless requested.
    loss
        Name of the loss.
    """

    layers: tuple[LayerCertificate, ...]
    output: OutputCertificate
    frame: pd.DataFrame
    theories: tuple[str, ...]
    moments: str
    overflows_at: Mapping[str, str | None]
    inputs: CertificateInputs = field(repr=False, compare=False)
    draws: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    unpredicted: Mapping[str, str] = field(default_factory=dict)
    sharpness: Mapping[str, float] = field(default_factory=dict)
    loss: str = "cross_entropy"

    def layer(self, name: str) -> LayerCertificate:
        """Return the record of one layer.

        Raises
        ------
        KeyError
            The layer does not exist.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        names = ", ".join(layer.name for layer in self.layers)
        raise KeyError(f"no layer named {name}; choose one of {names}")

    def maps(self, name: str) -> MomentMaps:
        """Return the moments of one layer at every position, predicted by theory `field`.

        Raises
        ------
        KeyError
            The layer does not exist.
        UnpredictableLayer
            Theory `field` has no formula for a layer.
        """
        self.layer(name)
        inputs = self.inputs
        return _layer_maps(
            *(inputs.model, inputs.weights.moments, inputs.images, name),
            *(inputs.seed, inputs.layer_kinds),
        )

    def to_frame(self) -> pd.DataFrame:
        """Return a copy of `frame`, with one row per predicted value."""
        return self.frame.copy()

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Problems of unhealthy layers, according to the default `Limits`."""
        return judge(self.layers)

    def as_dict(self) -> dict[str, Any]:
        """Return the certificate as nested dictionaries, with None for non-finite numbers."""
        contents = {
            "moments": self.moments,
            "theories": list(self.theories),
            "layers": [layer.as_dict() for layer in self.layers],
            "output": self.output.as_dict(),
            "overflows_at": dict(self.overflows_at),
            "unpredicted": dict(self.unpredicted),
            "loss": self.loss,
            "sharpness": dict(self.sharpness),
            "verdicts": [vars(verdict) for verdict in self.verdicts],
        }
        json_contents: dict[str, Any] = to_json_types(contents)
        return json_contents

    def to_json(self, indent: int | None = 2) -> str:
        """Return the certificate as a JSON object."""
        return json.dumps(self.as_dict(), indent=indent, allow_nan=False)

    def __rich__(self) -> Group:
        return render(self)


def print_certificate(certificate: Certificate, title: str = "", width: int | None = None) -> None:
    """Print a certificate: a table with a row per layer, the logits, and the verdicts.

    Parameters
    ----------
    certificate
        Result of `certify`.
    title
        Title of the table.
    width
        Width in columns. None uses the width of the terminal, but at least 100.
    """
    # A narrower table would truncate numbers; a narrow terminal wraps the lines instead.
    width = width or max(MIN_WIDTH, Console().width)
    Console(width=width, markup=False, highlight=False).print(render(certificate, title))


def render(certificate: Certificate, title: str = "") -> Group:
    """Return the certificate as a rich renderable."""
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
    table.add_column("#", justify="right")
    table.add_column("layer", no_wrap=True, max_width=16)
    for heading in columns:
        table.add_column(Text(heading), justify="right", no_wrap=True)
    for layer in certificate.layers:
        cells = [format_cell(layer) for format_cell in columns.values()]
        mark = "*" if layer.restarted_at is not None else ""
        table.add_row(str(layer.layer), layer.name + mark, *cells)
    return table


def _columns(certificate: Certificate) -> dict[str, CellFormatter]:
    """Return the formatters of all columns that are not empty, by heading.

    Measured values replace some predicted columns, to limit the width.
    """
    layers = certificate.layers
    has_measured = any(layer.measured for layer in layers)
    columns: dict[str, CellFormatter] = {
        "He": lambda layer: _format(layer.theories.get("he", {}), "preact_m2", 2),
        "mean": lambda layer: "" if has_measured else _predicted(layer, "preact_mean", 2),
        "E[y²]": lambda layer: _predicted(layer, "preact_m2"),
        "95 % of draws": _interval,
        "measured": lambda layer: _measured(layer, "preact_m2"),
        "zeros": lambda layer: "" if has_measured else percent(layer.value("act_zero_fraction")),
        "dead": lambda layer: percent(layer.dead_fraction),
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
    low, high = layer.interval
    mark = SIMULATED_MARK if layer.method == "simulated" else ""
    return f"{number(low, 2)}–{number(high, 2)}{mark}"


def _measured(layer: LayerCertificate, quantity: str) -> str:
    if quantity not in layer.measured:
        return ""
    mean, error = layer.measured[quantity]
    return number(mean) if isnan(error) else f"{number(mean)}±{number(error, 1)}"


def number(value: float, digits: int = 3) -> str:
    """Format a number to some significant digits; NaN gives an empty string."""
    return "" if isnan(value) else f"{value:.{digits}g}"


def percent(share: float) -> str:
    """Format a fraction as a percentage; NaN gives an empty string."""
    return "" if isnan(share) else f"{share:.0%}"


def _notes(certificate: Certificate) -> list[str]:
    output = certificate.output
    losses = [f"{name} {number(loss)}" for name, loss in output.initial_loss.items()]
    lines = [f"{output.n_logits} logits with variance {number(output.logit_var)}"]
    if losses:
        lines[0] += "; expected loss before training: " + ", ".join(losses)
    if certificate.moments == "estimated":
        lines.append("weight moments are estimated from the model's current weights (one draw)")
    lines += [*method_notes(certificate.layers), *zero_notes(certificate.layers)]
    for name, reason in certificate.unpredicted.items():
        lines.append(f"* predicted from measured activations of layer {name}: {reason}")
    for dtype, layer in certificate.overflows_at.items():
        if layer is not None:
            lines.append(f"{dtype} overflows from layer {layer} on")
    lines += _sharpness(certificate)
    verdicts = certificate.verdicts
    lines += [str(verdict) for verdict in verdicts[:MAX_VERDICTS]]
    if len(verdicts) > MAX_VERDICTS:
        lines.append(f"... and {len(verdicts) - MAX_VERDICTS} more (attribute `verdicts`)")
    if not verdicts:
        lines.append(
            "healthy: no layer is vanishing, exploding, overflowing, dead or depth-unstable"
            f" ({_basis(certificate)})"
        )
    return lines


def _basis(certificate: Certificate) -> str:
    """Name the theories behind a healthy verdict, and quantities that none of them predicts."""
    layers = certificate.layers
    theories = [
        theory
        for theory in certificate.theories
        if any(theory in layer.theories for layer in layers)
    ]
    basis = f"theories: {', '.join(theories)}"
    if all(isnan(layer.dead_fraction) for layer in layers):
        basis += "; dead units not predicted"
    return basis


def _sharpness(certificate: Certificate) -> list[str]:
    if "" not in certificate.sharpness:
        return []
    whole = certificate.sharpness[""]
    if not whole > 0:
        return [
            f"sharpness {whole:.3g} (one draw): the loss has no direction of positive curvature"
        ]
    layers = {name: value for name, value in certificate.sharpness.items() if name}
    sharpest = max(layers, key=lambda name: layers[name])
    return [
        f"sharpness {number(whole)} (one draw; largest of a single layer: {sharpest},"
        f" {number(layers[sharpest])}). 2/sharpness = {number(2 / whole)} is"
        f" {sharpness_note(certificate.loss)}"
    ]


def _layer_maps(
    model: nn.Module,
    moments: Mapping[str, LayerMoments],
    images: Float[Tensor, "image ..."],
    name: str,
    seed: int,
    layer_kinds: Sequence[LayerKind],
) -> MomentMaps:
    """Return one layer's maps predicted by theory `field`, averaged over its repeats."""
    sampling = Sampling(seed=seed)
    result = propagate_field(model, moments, images, sampling=sampling, layer_kinds=layer_kinds)
    repeats = [next(layer for layer in layers if layer.name == name) for layers in result.passes]
    shape = (len(images), *repeats[0].taps.positions)

    def average(maps: list[Tensor]) -> Map:
        # Averages over repeats, particles and the groups of a grouped first layer.
        return np.mean([m.mean((1, 2)).reshape(shape).numpy() for m in maps], axis=0)

    cotangents = [layer.cotangent for layer in repeats if layer.cotangent is not None]
    return MomentMaps(
        mean=average([layer.preact.expected_mean for layer in repeats]),
        m2=average([layer.preact.m2 for layer in repeats]),
        vjp_m2=average([cotangent.m2 for cotangent in cotangents]),
    )
