"""Notes below a certificate's table: the method of the intervals, and moments that can be 0."""

from __future__ import annotations

from collections.abc import Sequence

from fanin.theory.certificate.record import LayerCertificate

SIMULATED_MARK = "~"
SYMBOLS = {
    "preact_m2": "The signal",
    "vjp_m2": "The gradient",
    "weight_vjp_m2": "The weight gradient",
}
METHOD_TEXTS = {
    "exact": "exact formula",
    "first_order": "formula, first order in 1/width",
    "sampled": "sampled layer by layer, without weights",
    "simulated": "measured on networks drawn at random, which tests no theory",
}


def method_notes(layers: Sequence[LayerCertificate]) -> list[str]:
    """Name the method of the intervals; say that simulated ones test no theory."""
    names = _layers_by_method(layers)
    if not names:
        return []
    groups = [
        f"{method} ({METHOD_TEXTS.get(method, '')})"
        + ("" if len(names) == 1 else f" in {len(group)} layers")
        for method, group in names.items()
    ]
    mark = f"; {SIMULATED_MARK} marks simulated ones" if has_mixed_methods(layers) else ""
    return [f"Method of the intervals: {'; '.join(groups)}{mark}."]


def has_mixed_methods(layers: Sequence[LayerCertificate]) -> bool:
    """Return True if some intervals are simulated and others are not."""
    return {"simulated"} < set(_layers_by_method(layers))


def _layers_by_method(layers: Sequence[LayerCertificate]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for layer in layers:
        if layer.interval is not None:
            names.setdefault(layer.interval_method, []).append(layer.name)
    return names


def zero_notes(layers: Sequence[LayerCertificate]) -> list[str]:
    """State the fraction of draws in which a moment is exactly 0, for example in a dead layer."""
    notes = []
    for quantity, symbol in SYMBOLS.items():
        names: dict[str, list[str]] = {}
        for layer in layers:
            prediction = layer.predicted.get(quantity)
            if prediction is not None and 0 < prediction.distribution.zero_probability < 1:
                share = f"{100 * prediction.distribution.zero_probability:.2g} %"
                names.setdefault(share, []).append(str(layer.layer))
        parts = [
            f"exactly 0 in {share} of draws (layer{'s' * (len(at) > 1)} {', '.join(at)})"
            for share, at in names.items()
        ]
        if parts:
            notes.append(f"{symbol} is {', '.join(parts)}.")
    return notes
