"""Plot of a certificate: signal and gradient of every layer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from math import nan
from typing import TYPE_CHECKING

from fanin.plots import create_axes, label_layers, plot_layers
from fanin.theory.certificate.record import LayerCertificate, relative_units
from fanin.theory.certificate.verdicts import Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIGNAL_LABEL = "signal: rms of\npre-activation $y$ (dimensionless)"
GRADIENT_LABEL = r"gradient: norm $|\delta|$" + "\nrelative to the logits"


def plot_certificate(
    layers: Sequence[LayerCertificate], verdicts: Sequence[Verdict], axes: Sequence[Axes] | None
) -> tuple[Axes, Axes]:
    """Draw signal and gradient of every layer; see `Certificate.plot`.

    Parameters
    ----------
    layers
        Records of the layers.
    verdicts
        Problems of layers. Those of gradients are marked in the lower panel, others in the upper.
    axes
        Two axes, or None to create a figure.
    """
    signal, gradient = create_axes(2, len(layers), axes)
    gradient_problems = {v.layer for v in verdicts if v.quantity == "vjp_m2"}
    signal_problems = {v.layer for v in verdicts if v.quantity != "vjp_m2"}
    _plot(signal, layers, signal_problems, "preact_m2", lambda layer: 1.0, SIGNAL_LABEL)
    last = layers[-1]
    _plot(
        *(gradient, layers, gradient_problems, "vjp_m2"),
        lambda layer: relative_units(layer, last),
        GRADIENT_LABEL,
    )
    names = [f"{layer.layer}: {layer.name}" for layer in layers]
    label_layers(gradient, names, [layer.module for layer in layers])
    signal.tick_params(labelbottom=False)
    return signal, gradient


def _plot(
    ax: Axes,
    layers: Sequence[LayerCertificate],
    unhealthy: Collection[str],
    quantity: str,
    factor: Callable[[LayerCertificate], float],
    label: str,
) -> None:
    """Draw the root of a second moment times a factor."""
    intervals: list[tuple[float, float] | None] = []
    for layer in layers:
        prediction = layer.predicted.get(quantity)
        bounds = None if prediction is None else prediction.interval
        scale = factor(layer)
        intervals.append(bounds and (_root(bounds[0] * scale), _root(bounds[1] * scale)))
    plot_layers(
        ax,
        [_root(layer.value(quantity) * factor(layer)) for layer in layers],
        intervals,
        [_root(layer.measured.get(quantity, (nan, nan))[0] * factor(layer)) for layer in layers],
        [layer.name in unhealthy for layer in layers],
        label,
    )


def _root(value: float) -> float:
    return value**0.5 if value >= 0 else nan
