"""Predict a network's initialization before training it, and measure it.

The names below are imported when first used (PEP 562): some need no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fanin.probes.probe import probe
    from fanin.theory import (
        Certificate,
        LayerKind,
        UnhealthyInit,
        assert_healthy,
        certify,
        explain,
        prescribe,
        print_certificate,
    )

_MODULES = {"probe": "fanin.probes.probe"} | dict.fromkeys(
    (
        "Certificate",
        "LayerKind",
        "UnhealthyInit",
        "assert_healthy",
        "certify",
        "explain",
        "prescribe",
        "print_certificate",
    ),
    "fanin.theory",
)

__all__ = [
    "Certificate",
    "LayerKind",
    "UnhealthyInit",
    "assert_healthy",
    "certify",
    "explain",
    "prescribe",
    "print_certificate",
    "probe",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
