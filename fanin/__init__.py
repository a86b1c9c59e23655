"""Predict a network's activations and gradients at initialization, and measure them.

The public names are imported on first use (PEP 562), so that `import fanin` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fanin.diagnosis.diagnose import diagnose as diagnose
    from fanin.diagnosis.finding import Diagnosis as Diagnosis
    from fanin.probes.probe import probe as probe
    from fanin.theory import Certificate as Certificate
    from fanin.theory import LayerKind as LayerKind
    from fanin.theory import UnhealthyInit as UnhealthyInit
    from fanin.theory import assert_healthy as assert_healthy
    from fanin.theory import certify as certify
    from fanin.theory import explain as explain
    from fanin.theory import prescribe as prescribe
    from fanin.theory import print_certificate as print_certificate

__version__ = "0.2.0"

_PUBLIC = {
    "fanin.diagnosis.diagnose": ["diagnose"],
    "fanin.diagnosis.finding": ["Diagnosis"],
    "fanin.probes.probe": ["probe"],
    "fanin.theory": [
        "Certificate",
        "LayerKind",
        "UnhealthyInit",
        "assert_healthy",
        "certify",
        "explain",
        "prescribe",
        "print_certificate",
    ],
}
_MODULES = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
