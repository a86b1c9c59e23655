"""The lab: a config becomes measurements. `from experiments import probe` measures any model."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.probes.probe import probe

__all__ = ["probe"]

# Else the last bits of a matrix product depend on where in memory its factors lie, and so a cell's
# on the cells it is stacked with. MKL reads this once, at its first call in a process.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


def __getattr__(name: str) -> Any:
    """Import torch only when measuring: `--help` and shell completion do without (PEP 562)."""
    if name == "probe":
        from experiments.probes.probe import probe

        return probe
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
