"""The certificate: every layer of one network predicted, as data and as a table."""

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
from fanin.theory.certificate.record import LayerCertificate, OutputCertificate, plain
from fanin.theory.certificate.verdicts import Verdict, judge
from fanin.theory.certificate.weights import WeightMoments
from fanin.theory.field import Sampling, propagate_field
from fanin.theory.layer_kind import LayerKind
from fanin.theory.moments import LayerMoments

MAX_VERDICTS = 6
MIN_WIDTH = 100  # columns that the table needs at most
CellText = Callable[[LayerCertificate], str]
Map = Float[np.ndarray, "image *position"]


@dataclass(frozen=True)
class Maps:
    """Moments over draws of the weights, at each position of each image.

    Attributes
    ----------
    mean, m2
        E[y(p)] and E[y(p)^2] of the pre-activation.
    vjp_m2
        E[d(p)^2] of the cotangent.
    """

    mean: Map
    m2: Map
    vjp_m2: Map


@dataclass(frozen=True)
class CertificateInputs:
    """The certified network with its inputs, kept so that more can be asked of it."""

    model: nn.Module
    images: Float[Tensor, "image ..."]
    weights: WeightMoments
    seed: int
    layer_kinds: tuple[LayerKind, ...] = ()


@dataclass(frozen=True)
class Certificate:
    """Predictions for every layer of one network before it is trained. Made by `certify`.

    Attributes
    ----------
    layers
        A record per weight layer, in forward order.
    output
        What follows for the logits.
    frame
        Rows of the `predictions` table without `cell_id`, and `basis`: `theory` or `measured
        restart`. Every image, and -1 for the mean over them.
    theories
        What was asked, from coarse to fine.
    moments
        Whether the weights' moments were `declared`, `given` or `estimated` from one draw.
    overflows_at
        By dtype, the first layer where overflow is likely (its chance is over a half), or None.
    unpredicted
        Layers that theory has no formula for, and why; empty unless `restart` was asked.
    sharpness
        The largest Hessian eigenvalue of one draw, by layer and (key "") of the whole net; empty
        unless asked.
    draws
        Measured draws, where they were asked for: `draw`, `image`, `layer`, `layer_name`,
        `quantity`, `value`.
    loss
        Its name.
    of
        The network itself.
    """

    layers: tuple[LayerCertificate, ...]
    output: OutputCertificate
    frame: pd.DataFrame
    theories: tuple[str, ...]
    moments: str
    overflows_at: Mapping[str, str | None]
    of: CertificateInputs = field(repr=False, compare=False)
    draws: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    unpredicted: Mapping[str, str] = field(default_factory=dict)
    sharpness: Mapping[str, float] = field(default_factory=dict)
    loss: str = "cross_entropy"

    def layer(self, name: str) -> LayerCertificate:
        """The layer of that name.

        Raises
        ------
        KeyError
            There is none.
        """
        for each in self.layers:
            if each.name == name:
                return each
        raise KeyError(f"no layer {name}; there are {', '.join(each.name for each in self.layers)}")

    def maps(self, name: str) -> Maps:
        """A layer's moments position by position, by the field.

        Raises
        ------
        KeyError
            There is no such layer.
        UnpredictableLayer
            The field has no formula for the network.
        """
        self.layer(name)
        return _layer_maps(
            *(self.of.model, self.of.weights.moments, self.of.images, name),
            *(self.of.seed, self.of.layer_kinds),
        )

    def to_frame(self) -> pd.DataFrame:
        """The predictions, a row a number."""
        return self.frame.copy()

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The unhealthy layers, by the default `Limits`."""
        return judge(self.layers)

    def as_dict(self) -> dict[str, Any]:
        """The whole certificate as plain data; what is no finite number is None."""
        told = {
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
        cleaned: dict[str, Any] = plain(told)
        return cleaned

    def to_json(self, indent: int | None = 2) -> str:
        """The whole certificate as a JSON object."""
        return json.dumps(self.as_dict(), indent=indent, allow_nan=False)

    def __rich__(self) -> Group:
        return render(self)


def print_certificate(certificate: Certificate, title: str = "", width: int | None = None) -> None:
    """Print the table, what follows for the logits, and what is unhealthy."""
    # Narrower, numbers would be cut; a terminal that is wraps lines instead.
    width = width or max(MIN_WIDTH, Console().width)
    Console(width=width, markup=False, highlight=False).print(render(certificate, title))


def render(certificate: Certificate, title: str = "") -> Group:
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


def _columns(certificate: Certificate) -> dict[str, CellText]:
    """Headings and what stands under them; what no layer has is left out.

    Measured numbers take the place of some predicted ones: a terminal is only so wide.
    """
    layers = certificate.layers
    beside = any(layer.measured for layer in layers)
    every: dict[str, CellText] = {
        "He": lambda layer: _format(layer.theories.get("he", {}), "preact_m2", 2),
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
    return _format({name: each.value for name, each in layer.predicted.items()}, quantity, digits)


def _format(values: Mapping[str, float], quantity: str, digits: int) -> str:
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
    found = certificate.verdicts
    lines += [str(verdict) for verdict in found[:MAX_VERDICTS]]
    if len(found) > MAX_VERDICTS:
        lines.append(f"and {len(found) - MAX_VERDICTS} more")
    if not found:
        lines.append(
            f"healthy: nothing vanishes, explodes, overflows or is dead ({_basis(certificate)})"
        )
    return lines


def _basis(certificate: Certificate) -> str:
    """Name the theories that a verdict rests on, and what none of them predicted."""
    layers = certificate.layers
    used = [
        theory
        for theory in certificate.theories
        if any(theory in layer.theories for layer in layers)
    ]
    words = f"by {', '.join(used)}"
    if all(isnan(layer.dead_fraction) for layer in layers):
        words += "; dead units not predicted"
    return words


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
        f" {sharpness_note(certificate.loss)}"
    ]


def _layer_maps(
    model: nn.Module,
    moments: Mapping[str, LayerMoments],
    images: Float[Tensor, "image ..."],
    name: str,
    seed: int,
    layer_kinds: Sequence[LayerKind],
) -> Maps:
    """Walk the field and keep one layer's maps, averaged over what the theory samples."""
    sampling = Sampling(seed=seed)
    passes = propagate_field(model, moments, images, sampling=sampling, layer_kinds=layer_kinds).passes
    found = [next(layer for layer in layers if layer.name == name) for layers in passes]
    shape = (len(images), *found[0].taps.positions)

    def over_repeats(maps: list[Tensor]) -> Map:
        # Over particles and, in a grouped first layer, over its groups.
        return np.mean([each.mean((1, 2)).reshape(shape).numpy() for each in maps], axis=0)

    return Maps(
        mean=over_repeats([layer.preact.expected_mean for layer in found]),
        m2=over_repeats([layer.preact.m2 for layer in found]),
        vjp_m2=over_repeats([layer.cotangent.m2 for layer in found if layer.cotangent is not None]),
    )
