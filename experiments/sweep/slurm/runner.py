"""On a Slurm cluster: `runner=slurm`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from experiments.sweep.provenance import code_version, own_modules
from experiments.sweep.slurm.commands import max_array_size
from experiments.sweep.slurm.job_manager import JobManager, cancel_jobs
from experiments.sweep.slurm.lease import StaleJobDetector
from experiments.sweep.slurm.script import SlurmSettings, batch_script
from experiments.sweep.slurm.shards import Shard, sharded
from experiments.sweep.slurm.submission import JobConfig, Submission, pause
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.types import Heartbeat, Pack
from fanin.errors import ConfigError

POLL = 0.5  # seconds between two looks at the files
NO_LIMIT = 1 << 62  # bytes


@dataclass(frozen=True)
class SlurmRunner:
    """Job arrays on a Slurm cluster; each job is a pool of workers on its node.

    Parameters
    ----------
    workers
        Worker processes of a job; more than one share its GPU. None: one a core, or one a GPU.
    device
        `auto`, `cpu` or `cuda`: what workers compute on.
    pack_cells
        Most cells that become one part file; None: by the work in them.
    cell_seconds
        Time limit of a cell; None: no limit.
    memory_gb
        What a worker may allocate (GiB), on a CPU; None: what Slurm lets the job have.
    checkpoint_seconds
        How often a cell in training is kept; None: only when Slurm gives notice.
    target_minutes
        How long a job should take: start-up is little beside it, and a lost job costs no more.
    max_array_size
        Slurm's MaxArraySize; None: what scontrol says.
    max_jobs
        Most jobs that may wait or run at once, where the site has such a limit; None: no limit.
    attempts
        How often a cell is begun that is lost with its job, before it is given up.
    stage_data
        A folder on the nodes' own disks that data are copied to; None: they are read where they
        are.
    poll_seconds
        How often Slurm is asked how its jobs are.
    silent_seconds
        How long a job may run without a sign of life, before its cells are taken back from it.
    slurm
        What each job asks of Slurm.
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
    silent_seconds: PositiveFloat = 300.0
    slurm: SlurmSettings = field(default_factory=SlurmSettings)

    @property
    def n_workers(self) -> int:
        """Number of packs that a job runs at once, as far as is known here."""
        return self.workers or 1

    def worker_memory(self) -> int:
        """Return the memory that Slurm lets the job have (bytes)."""
        return NO_LIMIT if self.slurm.mem_gb is None else int(self.slurm.mem_gb * 1e9)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Nothing can be called on a node."""
        raise ConfigError(
            "engine=auto times cells on this machine, which is no node of the cluster's: with "
            "runner=slurm say engine=serial or engine=stacked"
        )

    def run(self, folder: SweepFolder, packs: Sequence[Pack], tick: Heartbeat) -> None:
        """Submit packs, and wait for these jobs and those of earlier launches."""
        manager = self.job_manager(folder, packs, tick)
        manager.adopt()
        polled = float("-inf")
        while True:
            manager.submit_pending()
            if manager.idle:
                tick()
                manager.close()
                return
            if time.monotonic() - polled >= self.poll_seconds:
                manager.poll()
                polled = time.monotonic()
            pause(POLL, tick)

    def submit(self, folder: SweepFolder, packs: Sequence[Pack], tick: Heartbeat) -> None:
        """Submit packs, and leave them."""
        manager = self.job_manager(folder, packs, tick)
        manager.adopt()
        manager.submit_pending()

    def cancel(self, folder: SweepFolder, tick: Heartbeat) -> None:
        """Cancel all jobs of a sweep; what is finished is kept, what was at work has an outcome."""
        cancel_jobs(folder, tick)

    def job_manager(
        self, folder: SweepFolder, packs: Sequence[Pack], tick: Heartbeat
    ) -> JobManager:
        """Make the job manager of these packs."""
        configs = (task.config for pack in packs for task in pack.cells)
        job_config = JobConfig(
            code=code_version(),
            modules=own_modules(configs),
            workers=self.workers,
            device=self.device,
            cell_seconds=self.cell_seconds,
            memory_gb=self.memory_gb,
            checkpoint_seconds=self.checkpoint_seconds,
            attempts=self.attempts,
            notice_seconds=self.slurm.signal_seconds,
            stage_data=self.stage_data,
        )
        size = self.max_array_size or max_array_size()
        stale_jobs = StaleJobDetector(self.silent_seconds)
        manager = JobManager(folder, job_config, self.script, size, self.max_jobs, tick, stale_jobs)
        manager.add(self.shards(packs))
        return manager

    def shards(self, packs: Sequence[Pack]) -> list[Shard]:
        """The packs of each job."""
        usual = self.slurm.gpus or self.slurm.cpus  # as a job counts its workers itself
        return sharded(packs, 60 * self.target_minutes, self.workers or usual)

    def script(self, submission: Submission) -> str:
        """The batch script of a submission."""
        root = submission.folder.root.resolve()
        return batch_script(
            self.slurm, root, submission.token, submission.job_name, submission.size
        )
