"""Submissions: job arrays, written to `slurm/TOKEN/` before sbatch is called, submitted once.

`submission.json` holds the settings of the jobs, `shards/INDEX.json` the packs of each task,
`job_id` the job id of the array and `logs/` the output of the jobs. The lease of a task
(`lease.py`) is the folder `journals/TOKEN-INDEX/`: it exists from before the submission until all
cells of the task have ended or its shard is reclaimed.
"""

from __future__ import annotations

import json
import re
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experiments.atomic_write import atomic_write, writing
from experiments.sweep.slurm.commands import (
    SlurmNoAccounting,
    SlurmUnavailable,
    run_slurm,
    sacct,
    squeue,
)
from experiments.sweep.slurm.shards import Shard
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.types import Heartbeat, Pack, PackedCell
from fanin.errors import FaninError

NAME_LENGTH = 60  # maximum characters of the sweep's name in the job name
MIN_RETRY_SECONDS, MAX_RETRY_SECONDS = 1.0, 60.0  # between two attempts to submit
SUBMIT_TIMEOUT = 1800.0  # seconds; while the controller does not answer, the submission is retried
HEARTBEAT_SECONDS = 0.5


@dataclass(frozen=True)
class JobConfig:
    """Settings of the jobs of a submission.

    `code` and `modules` are the version of the code and the user's own modules at launch.
    `workers` to `checkpoint_seconds` are as in `SlurmRunner`. `attempts` is the maximum number of
    times that a cell may be lost with its job. `signal_seconds` is the time between the signal and
    the end of the job (0: no signal). `stage_data` is a folder on the node's local disk for the
    data, `data_root` the launcher's FANIN_DATA (None: not set). `startup_failures` is the number
    of jobs in a row that failed with these shards before starting a cell.
    """

    code: str
    modules: Mapping[str, str] = field(default_factory=dict)
    workers: int | None = None
    device: str = "auto"
    cell_seconds: float | None = None
    memory_gb: float | None = None
    checkpoint_seconds: float | None = None
    attempts: int = 5
    signal_seconds: float = 0.0
    stage_data: str | None = None
    data_root: str | None = None
    startup_failures: int = 0


@dataclass(frozen=True)
class Submission:
    """One job array.

    The token is unique and part of the job name, so a job is found by its name, whatever its job
    id. `since` is the creation time (ISO 8601, in the submitting machine's time zone).
    """

    folder: SweepFolder
    token: str
    job_name: str
    size: int
    since: str
    job_config: JobConfig

    @property
    def path(self) -> Path:
        """Folder of the submission."""
        return self.folder.slurm / self.token

    @property
    def script(self) -> Path:
        """Path of the batch script."""
        return self.path / "script.sh"

    @property
    def logs(self) -> Path:
        """Folder with the output of the jobs."""
        return self.path / "logs"

    def lease_dir(self, index: int) -> Path:
        """Return the path of a task's lease; it exists until all cells of the task have ended."""
        return self.folder.journals / f"{self.token}-{index}"

    def open_indices(self) -> list[int]:
        """Return the indices of the tasks with unfinished cells."""
        return [index for index in range(self.size) if self.lease_dir(index).is_dir()]

    def job_id(self) -> str | None:
        """Return the job id of the array; None if no answer of sbatch is known."""
        with suppress(FileNotFoundError):
            return (self.path / "job_id").read_text().strip() or None
        return None

    def write_job_id(self, job_id: str) -> None:
        """Store the job id of the array."""
        atomic_write(self.path / "job_id", f"{job_id}\n".encode())

    def shard(self, index: int) -> Shard:
        """Read the packs of a task."""
        path = self.path / "shards" / f"{index}.json"
        try:
            return tuple(_parse_pack(pack) for pack in json.loads(path.read_text()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FaninError(f"{path}: can't be read ({error})") from error

    def delete(self) -> None:
        """Delete the leases and the folder of a submission that Slurm refused."""
        for index in range(self.size):
            with suppress(OSError):
                self.lease_dir(index).rmdir()
        shutil.rmtree(self.path, ignore_errors=True)


def write_submission(
    folder: SweepFolder, shards: Sequence[Shard], job_config: JobConfig
) -> Submission:
    """Write a submission's files and leases, before sbatch is called."""
    token = uuid.uuid4().hex[:10]
    now = datetime.now().replace(microsecond=0).isoformat()
    name = make_job_name(folder.root.name, token)
    submission = Submission(folder, token, name, len(shards), now, job_config)
    with writing(submission.path):
        (submission.path / "shards").mkdir(parents=True)
        submission.logs.mkdir()
    for index, shard in enumerate(shards):
        text = json.dumps([asdict(pack) for pack in shard])
        atomic_write(submission.path / "shards" / f"{index}.json", text.encode())
    record = {
        "job_name": name,
        "size": len(shards),
        "since": now,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "job_config": asdict(job_config),
    }
    atomic_write(submission.path / "submission.json", json.dumps(record, indent=1).encode())
    with writing(folder.journals):
        for index in range(submission.size):
            submission.lease_dir(index).mkdir(parents=True)
    return submission


def make_job_name(sweep: str, token: str) -> str:
    """Return the job name of a submission; squeue and sacct split names at some characters.

    >>> make_job_name("lr=0.1,0.2", "0123456789")
    'lr_0.1_0.2.0123456789'
    """
    name = re.sub(r"[^\w.-]", "_", sweep)
    return f"{name[:NAME_LENGTH]}.{token}"


def read_submission(folder: SweepFolder, token: str) -> Submission:
    """Read a submission by its token."""
    path = folder.slurm / token / "submission.json"
    try:
        record: dict[str, Any] = json.loads(path.read_text())
        job_config = JobConfig(**record["job_config"])
        name, size, since = record["job_name"], record["size"], record["since"]
        return Submission(folder, token, name, size, since, job_config)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FaninError(f"{path}: can't be read ({error})") from error


def open_submissions(folder: SweepFolder) -> list[Submission]:
    """Return the submissions of a sweep with unfinished tasks, in the order of their tokens."""
    if not folder.journals.is_dir():
        return []
    leases = (path.name for path in folder.journals.iterdir() if path.is_dir())
    tokens = {name.rpartition("-")[0] for name in leases if name.rpartition("-")[2].isdecimal()}
    existing = sorted(token for token in tokens if (folder.slurm / token).is_dir())
    return [read_submission(folder, token) for token in existing]


def cells_in_jobs(folder: SweepFolder) -> dict[str, str]:
    """Return the job name of each cell that is in the shard of an unfinished task."""
    return {
        cell.cell_id: submission.job_name
        for submission in open_submissions(folder)
        for index in submission.open_indices()
        for pack in submission.shard(index)
        for cell in pack.cells
    }


def _parse_pack(record: Mapping[str, Any]) -> Pack:
    cells = tuple(PackedCell(**cell) for cell in record["cells"])
    return Pack(cells, record["engine"], record["seconds"])


def submit(submission: Submission, heartbeat: Heartbeat, timeout: float = SUBMIT_TIMEOUT) -> None:
    """Submit an array unless it is already submitted, and store its job id.

    While the controller does not answer, try again for up to `timeout` seconds. It may have
    accepted the job nevertheless, so every attempt searches the queue first.

    Raises
    ------
    SlurmError
        Slurm refuses such a job (`SlurmJobLimit`: too many jobs at once), or did not answer within
        `timeout` (`SlurmUnavailable`).
    """
    wait, deadline = MIN_RETRY_SECONDS, time.monotonic() + timeout
    while True:
        try:
            submission.write_job_id(find_job_id(submission) or _sbatch(submission))
            return
        except SlurmUnavailable:
            if time.monotonic() + wait > deadline:
                raise
        sleep_with_heartbeat(wait, heartbeat)
        wait = min(2 * wait, MAX_RETRY_SECONDS)


def find_job_id(submission: Submission) -> str | None:
    """Find the job id of a submission by its job name; None if it was not submitted."""
    for task in squeue([submission.job_name]).values():
        return task.job
    try:
        for runs in sacct([submission.job_name], submission.since).values():
            return runs[-1].job
    except SlurmNoAccounting:  # the leases show whether a task has run
        pass
    leases = [submission.lease_dir(index) for index in range(submission.size)]
    if any(not lease.is_dir() or any(lease.iterdir()) for lease in leases):
        return "unknown"
    return None


def _sbatch(submission: Submission) -> str:
    output = run_slurm("sbatch", "--parsable", str(submission.script))
    return output.strip().splitlines()[-1].partition(";")[0]


def sleep_with_heartbeat(seconds: float, heartbeat: Heartbeat) -> None:
    """Sleep, and call `heartbeat` regularly."""
    deadline = time.monotonic() + seconds
    while (remaining := deadline - time.monotonic()) > 0:
        heartbeat()
        time.sleep(min(remaining, HEARTBEAT_SECONDS))


def log_path(folder: SweepFolder) -> Path:
    """Return the path of the sweep's log of Slurm events, which its status shows."""
    return folder.slurm / "log.txt"


def append_log(folder: SweepFolder, text: str) -> None:
    """Append a line to the log; ignore a full disk."""
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    with suppress(OSError), log_path(folder).open("a") as file:
        file.write(f"{now} {' '.join(text.split())}\n")


def read_log(folder: SweepFolder) -> list[str]:
    """Return all lines of the log, the oldest first."""
    with suppress(OSError):
        return log_path(folder).read_text(errors="replace").splitlines()
    return []
