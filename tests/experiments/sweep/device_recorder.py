"""Stand-in for `run_pack`: records the device and process of each pack, without a real device."""

from __future__ import annotations

import os
import time
from pathlib import Path

from experiments.sweep.types import PackJob


def record_device(job: PackJob) -> None:
    """Create a lock file of the job's device while the pack runs; fail if it exists already.

    A pack of `n` seconds waits until `n` other packs have ended.
    """
    root = Path(job.root)
    lock = root / f"{job.device}.lock"
    lock.touch(exist_ok=False)
    while len(list(root.glob("*.ended"))) < job.pack.seconds:
        time.sleep(0.01)
    lock.unlink()
    (cell,) = job.pack.cells
    (root / f"{cell.cell_id}.ended").write_text(f"{job.device} {os.getpid()}")
