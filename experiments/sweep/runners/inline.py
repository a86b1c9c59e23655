"""Runner in this process, for debugging and single cells."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import PositiveFloat, PositiveInt

from experiments.sweep.provenance import code_version, user_modules
from experiments.sweep.runners.devices import devices, worker_memory_bytes
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.types import Heartbeat, Pack, PackJob
from experiments.sweep.worker.limits import prepare_torch
from experiments.sweep.worker.worker import run_pack


@dataclass(frozen=True)
class InlineRunner:
    """Runner in this process, one pack after the other.

    Parameters
    ----------
    device
        `auto`, `cpu`, `cuda` or `cuda:N`.
    pack_cells
        Maximum number of cells in a pack. None: chosen by the time that cells take.
    cell_seconds
        Time limit of a cell, enforced in Python code only. None: no limit.
    """

    device: str = "auto"
    pack_cells: PositiveInt | None = None
    cell_seconds: PositiveFloat | None = None

    @property
    def n_workers(self) -> int:
        """Number of packs that run at once: 1."""
        return 1

    def worker_memory(self) -> int:
        """Return the memory of the device in bytes."""
        return worker_memory_bytes(devices(self.device)[0], 1)

    def call(
        self, function: Callable[..., Any], *arguments: Any, heartbeat: Heartbeat = lambda: None
    ) -> Any:
        """Call the function in this process."""
        prepare_torch()
        return function(*arguments)

    def run(self, folder: SweepFolder, packs: Sequence[Pack], heartbeat: Heartbeat) -> None:
        """Run packs in this process, calling `heartbeat` regularly."""
        prepare_torch()
        root, device, code = str(folder.root), devices(self.device)[0], code_version()
        for pack in packs:
            modules = user_modules(cell.config for cell in pack.cells)
            stem = uuid.uuid4().hex
            run_pack(PackJob(root, stem, pack, device, code, modules, self.cell_seconds), heartbeat)
        heartbeat()
