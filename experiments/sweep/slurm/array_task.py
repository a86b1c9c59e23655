"""Entry point of an array task: `python -m experiments.sweep.slurm.array_task FOLDER TOKEN`.

It runs the packs of its shard in a pool of workers on its node. A task that Slurm requeued
continues at the first unfinished cell.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from experiments.console import exit_on_error
from experiments.data_root import DATA
from experiments.sweep.slurm.preemption import HEARTBEAT_SECONDS, block_signals


def main(argv: Sequence[str] | None = None) -> int:
    """Run this task's shard; return the exit status."""
    block_signals()  # before anything else: an unhandled signal would end this process and its job
    root, token = sys.argv[1:] if argv is None else argv
    # The launcher fetched the data before it submitted, so no job downloads anything.
    os.environ["FANIN_OFFLINE"] = "1"
    with exit_on_error():
        from experiments.sweep.slurm.submission import read_submission
        from experiments.sweep.store.paths import SweepFolder
        from experiments.sweep.worker.forkserver import start_server

        submission = read_submission(SweepFolder(Path(root)), token)
        if submission.job_config.stage_data is not None:
            os.environ["FANIN_STAGE"] = submission.job_config.stage_data
        if submission.job_config.data_root is not None:  # sbatch --export may have dropped it
            os.environ[DATA] = submission.job_config.data_root
        index = int(os.environ["SLURM_ARRAY_TASK_ID"])
        with startup_heartbeat(submission.lease_dir(index)):
            start_server()  # it loads torch while this process loads its own modules
            from experiments.sweep.slurm.run_shard import run_shard

        return run_shard(submission, index)


@contextmanager
def startup_heartbeat(lease_dir: Path, seconds: float = HEARTBEAT_SECONDS) -> Iterator[None]:
    """Touch the lease from a thread; on a busy node, importing modules can take minutes."""
    stop = threading.Event()

    def touch() -> None:
        while not stop.is_set():
            with suppress(OSError):  # the lease is revoked, or the file system is slow to answer
                os.utime(lease_dir)
            stop.wait(seconds)

    thread = threading.Thread(target=touch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


if __name__ == "__main__":
    raise SystemExit(main())
