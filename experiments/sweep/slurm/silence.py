"""Jobs that Slurm says run, and that give no sign of life."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from experiments.sweep.slurm.queue import Key


@dataclass
class Silence:
    """Watches the folders in which jobs take their turns: a job that lives stamps its own.

    After some accidents (a node that is back before it was missed, a controller that has forgotten
    its last seconds) Slurm holds a job for running of which no process is left.

    Parameters
    ----------
    limit
        Seconds without a sign after which a job counts as dead.
    """

    limit: float
    _heard: dict[Key, tuple[float, float]] = field(default_factory=dict)  # stamp, when it was new

    def over(self, rights: Mapping[Key, Path]) -> list[Key]:
        """The elements that have been silent for too long.

        Parameters
        ----------
        rights
            All elements that Slurm says run, each with its right's folder.
        """
        now = time.monotonic()
        heard = {}
        for key, right in rights.items():
            stamp = _stamp(right)
            before = self._heard.get(key)
            # Stamps are only compared with each other: no host's clock with another's.
            heard[key] = before if before is not None and before[0] == stamp else (stamp, now)
        self._heard = heard
        return sorted(key for key, (_, since) in heard.items() if now - since > self.limit)


def _stamp(right: Path) -> float:
    """When the last sign came; 0 before the first."""
    with suppress(FileNotFoundError), os.scandir(right) as turns:
        return max((turn.stat().st_mtime for turn in turns), default=0.0)
    return 0.0
