"""Worker processes on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from experiments.sweep.runners.devices import cores, devices, worker_bytes
from experiments.sweep.runners.pool import Crew, call_in_pool, run_pool
from experiments.sweep.runners.protocol import Tick
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.types import Pack


@dataclass(frozen=True)
class LocalRunner:
    """A bounded pool of worker processes, one thread (or one GPU) each.

    Parameters
    ----------
    workers
        Processes; None: one a core, or one a GPU where the device is CUDA.
    device
        `auto`, `cpu`, `cuda` or `cuda:N`.
    pack_cells
        Most cells handed to a worker at once, whose death costs one of them; None: by the work
        in them.
    cell_seconds
        Time limit of a cell, after which its worker is killed; None: no limit.
    memory_gb
        What a worker may allocate (GiB), on a CPU; None: its share of this machine's memory.
    checkpoint_seconds
        How often a cell in training is kept, so that it goes on from there after an interruption;
        None: never.
    """

    workers: PositiveInt | None = None
    device: str = "auto"
    pack_cells: PositiveInt | None = None
    cell_seconds: PositiveFloat | None = None
    memory_gb: PositiveFloat | None = None
    checkpoint_seconds: NonNegativeFloat | None = 300.0

    @property
    def n_workers(self) -> int:
        """How many packs run at once."""
        slots = devices(self.device)
        return self.workers or (len(slots) if slots[0] != "cpu" else cores())

    def worker_memory(self) -> int:
        """Bytes of memory that a worker may use."""
        slots = devices(self.device)
        sharing = -(-self.n_workers // len(slots))  # workers on one device, rounded up
        return worker_bytes(slots[0], sharing, self.memory_gb)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function in a worker process of its own."""
        return call_in_pool(self._crew(), function, *arguments)

    def run(self, folder: SweepFolder, packs: Sequence[Pack], tick: Tick) -> None:
        """Run packs in the pool; a worker that dies costs the cell it was at, and no other."""
        run_pool(self._crew(), folder, packs, tick)

    def _crew(self) -> Crew:
        slots = devices(self.device)
        memory = self.worker_memory() if slots[0] == "cpu" else None
        return Crew(self.n_workers, slots, memory, self.cell_seconds, self.checkpoint_seconds)
