"""The Slurm runner: `runner=slurm`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from experiments.data_root import DATA, data_folder
from experiments.sweep.provenance import code_version, user_modules
from experiments.sweep.slurm.commands import max_array_size
from experiments.sweep.slurm.job_manager import JobManager, cancel_jobs
from experiments.sweep.slurm.lease import StaleJobDetector
from experiments.sweep.slurm.script import SlurmSettings, batch_script
from experiments.sweep.slurm.shards import Shard, make_shards
from experiments.sweep.slurm.submission import JobConfig, Submission, sleep_with_heartbeat
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.types import AUTO_ENGINE_REFUSED, GIB, Heartbeat, Pack
from fanin.errors import ConfigError

POLL_SECONDS = 0.5  # between two reads of the sweep's files
NO_LIMIT = 1 << 62  # bytes


@dataclass(frozen=True)
class SlurmRunner:
    """Runner that submits job arrays to a Slurm cluster; each job is a pool of workers on a node.

    Parameters
    ----------
    workers
        Number of worker processes of a job, divided equally among its GPUs. None: one per core, or
        one per GPU.
    device
        Device that workers compute on: `auto`, `cpu` or `cuda`.
    pack_cells
        Maximum number of cells in a pack. None: chosen by the time that cells take.
    cell_seconds
        Time limit of a cell (seconds). None: no limit.
    memory_gb
        Memory that a worker may allocate on a CPU (GiB). None: limited by Slurm only.
    checkpoint_seconds
        Time between two checkpoints of a cell in training (seconds). None: only when Slurm sends a
        signal.
    target_minutes
        Target duration of a job (minutes): long compared to its startup, short enough that a lost
        job costs little.
    max_array_size
        Slurm's MaxArraySize. None: read from `scontrol show config`.
    max_jobs
        Maximum number of jobs that are pending or running at once, for sites with such a limit.
        None: no limit.
    attempts
        Maximum number of attempts at a cell that is lost with its job.
    stage_data
        Folder on the nodes' local disks to copy the data to. None: read the data where they are.
    poll_seconds
        Time between two queries of Slurm (seconds).
    heartbeat_timeout_seconds
        Time without a heartbeat after which a running job counts as dead (seconds).
    slurm
        Options of sbatch for each job.
    """

    workers: PositiveInt | None = None
    device: str = "auto"
    pack_cells: PositiveInt | None = None
    cell_seconds: PositiveFloat | None = None
    memory_gb: PositiveFloat | None = None
    checkpoint_seconds: NonNegativeFloat | None = 300.0
    target_minutes: PositiveFloat = 60.0
    max_array_size: PositiveInt | None = None
    max_jobs: PositiveInt | None = None
    attempts: PositiveInt = 5
    stage_data: str | None = None
    poll_seconds: PositiveFloat = 15.0
    heartbeat_timeout_seconds: PositiveFloat = 300.0
    slurm: SlurmSettings = field(default_factory=SlurmSettings)

    @property
    def n_workers(self) -> int:
        """Number of packs that a job runs at once; 1 if it depends on the node."""
        return self.workers or 1

    @property
    def job_device(self) -> str:
        """`cuda` if a job asks for GPUs, unless `device` says otherwise; else `cpu`."""
        if self.device == "auto":
            return "cuda" if self.slurm.gpus else "cpu"
        return self.device

    @property
    def job_workers(self) -> int:
        """Number of workers of a job: `run_shard.worker_count` on a node as requested."""
        on_gpu = self.job_device != "cpu" and self.slurm.gpus
        return self.workers or (self.slurm.gpus if on_gpu else self.slurm.cpus)

    def worker_memory(self) -> int:
        """Return the bytes of memory that a worker may use; on a GPU, a stack measures it."""
        limits = [NO_LIMIT]
        if self.job_device == "cpu" and self.memory_gb is not None:
            limits.append(int(self.memory_gb * GIB))
        if self.job_device == "cpu" and self.slurm.mem_gb is not None:
            limits.append(int(self.slurm.mem_gb * 1e9 / self.job_workers))
        return min(limits)

    def call(
        self, function: Callable[..., Any], *arguments: Any, heartbeat: Heartbeat = lambda: None
    ) -> Any:
        """Raise an error: the launcher cannot call a function on a node."""
        raise ConfigError(AUTO_ENGINE_REFUSED)

    def run(self, folder: SweepFolder, packs: Sequence[Pack], heartbeat: Heartbeat) -> None:
        """Submit packs, and wait for their jobs and for the jobs of earlier launches."""
        manager = self.job_manager(folder, packs, heartbeat)
        manager.resume_unsubmitted()
        polled = float("-inf")
        while True:
            manager.submit_pending()
            if manager.idle:
                heartbeat()
                manager.close()
                return
            if time.monotonic() - polled >= self.poll_seconds:
                manager.poll()
                polled = time.monotonic()
            sleep_with_heartbeat(POLL_SECONDS, heartbeat)

    def submit(self, folder: SweepFolder, packs: Sequence[Pack], heartbeat: Heartbeat) -> None:
        """Submit packs and return without waiting for their jobs."""
        manager = self.job_manager(folder, packs, heartbeat)
        manager.resume_unsubmitted()
        manager.submit_pending()

    def cancel(self, folder: SweepFolder, heartbeat: Heartbeat) -> None:
        """Cancel all jobs of a sweep; running cells get the outcome `cancelled`."""
        cancel_jobs(folder, heartbeat)

    def job_manager(
        self, folder: SweepFolder, packs: Sequence[Pack], heartbeat: Heartbeat
    ) -> JobManager:
        """Return a job manager with these packs in its queue."""
        configs = (cell.config for pack in packs for cell in pack.cells)
        job_config = JobConfig(
            code=code_version(),
            modules=user_modules(configs),
            workers=self.workers,
            device=self.device,
            cell_seconds=self.cell_seconds,
            memory_gb=self.memory_gb,
            checkpoint_seconds=self.checkpoint_seconds,
            attempts=self.attempts,
            signal_seconds=self.slurm.signal_seconds,
            stage_data=self.stage_data,
            data_root=str(data_folder(None).resolve()) if os.environ.get(DATA) else None,
        )
        size = self.max_array_size or max_array_size()
        stale_jobs = StaleJobDetector(self.heartbeat_timeout_seconds)
        manager = JobManager(
            folder, job_config, self.script, size, self.max_jobs, heartbeat, stale_jobs
        )
        manager.add(self.shards(packs))
        return manager

    def shards(self, packs: Sequence[Pack]) -> list[Shard]:
        """Return the packs of each job."""
        return make_shards(packs, 60 * self.target_minutes, self.job_workers)

    def script(self, submission: Submission) -> str:
        """Return the batch script of a submission."""
        root = submission.folder.root.resolve()
        return batch_script(
            self.slurm, root, submission.token, submission.job_name, submission.size
        )
