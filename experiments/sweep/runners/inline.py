"""Runner in this process: for debugging, and for a single cell."""

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
    """In this process, one pack after the other.

    Parameters
    ----------
    device
        `auto`, `cpu`, `cuda` or `cuda:N`.
    pack_cells
        Most cells in a pack; None: by the work in them.
    cell_seconds
        Time limit of a cell, where it runs Python code; None: no limit.
    """

    device: str = "auto"
    pack_cells: PositiveInt | None = None
    cell_seconds: PositiveFloat | None = None

    @property
    def n_workers(self) -> int:
        """One."""
        return 1

    def worker_memory(self) -> int:
        """All memory of the device."""
        return worker_memory_bytes(devices(self.device)[0], 1)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call the function here."""
        prepare_torch()
        return function(*arguments)

    def run(self, folder: SweepFolder, packs: Sequence[Pack], heartbeat: Heartbeat) -> None:
        """Run packs here, calling `heartbeat` after each cell."""
        prepare_torch()
        root, device, code = str(folder.root), devices(self.device)[0], code_version()
        for pack in packs:
            modules = user_modules(cell.config for cell in pack.cells)
            stem = uuid.uuid4().hex
            run_pack(PackJob(root, stem, pack, device, code, modules, self.cell_seconds), heartbeat)
        heartbeat()
