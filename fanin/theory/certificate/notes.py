"""Notes below a certificate's table: the method of the intervals, and moments that can be 0."""

from __future__ import annotations

from collections.abc import Sequence

from fanin.theory.certificate.record import LayerCertificate

SIMULATED_MARK = "~"
SYMBOLS = {"preact_m2": "E[y²]", "vjp_m2": "E[δ²]", "weight_vjp_m2": "E[∂W²]"}


def method_notes(layers: Sequence[LayerCertificate]) -> list[str]:
    """Name the method of the intervals, and say what a simulated one is worth."""
    names: dict[str, list[str]] = {}
    for layer in layers:
        if layer.interval is not None:
            names.setdefault(layer.method, []).append(layer.name)
    if not names:
        return []
    groups = [
        method if len(names) == 1 else f"{method} (layers {', '.join(layers)})"
        for method, layers in names.items()
    ]
    lines = [f"method of the intervals: {', '.join(groups)}"]
    if "simulated" in names:
        lines.append(
            f"{SIMULATED_MARK} simulated: networks were drawn and measured, because no formula for"
            " the spread of one draw applies; these numbers do not test the theory"
        )
    return lines


def zero_notes(layers: Sequence[LayerCertificate]) -> list[str]:
    """Say in which share of draws a moment is exactly 0, for example because a layer is dead."""
    notes = []
    for quantity, symbol in SYMBOLS.items():
        names: dict[str, list[str]] = {}
        for layer in layers:
            prediction = layer.predicted.get(quantity)
            if prediction is not None and 0 < prediction.zero_probability < 1:
                share = f"{100 * prediction.zero_probability:.2g} %"
                names.setdefault(share, []).append(layer.name)
        parts = [
            f"exactly 0 in {share} of draws (layer{'s' * (len(at) > 1)} {', '.join(at)})"
            for share, at in names.items()
        ]
        if parts:
            notes.append(f"{symbol} is {', '.join(parts)}")
    return notes
