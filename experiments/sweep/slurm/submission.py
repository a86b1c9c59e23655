"""Submissions: job arrays, written to `slurm/TOKEN/` before sbatch is called, and submitted once.

`submission.json` says how its jobs work, `shards/NUMBER.json` what each has to do, `job_id` which
array it became; `logs/` is what the jobs print. An element's lease (`lease.py`) is the folder
`journals/TOKEN-NUMBER/`: it is there from before the submission until all its cells have ended or
its shard is reclaimed.
"""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experiments.atomic_write import atomic_write, writing
from experiments.sweep.slurm.commands import (
    SlurmNoAccounting,
    SlurmUnavailable,
    call,
    ended,
    waiting,
)
from experiments.sweep.slurm.shards import Shard
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.types import Pack, PackedCell
from fanin.errors import FaninError

NAME_LENGTH = 60  # characters of a sweep's name that are part of a job's
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds between two tries
PATIENCE = 1800.0  # seconds for which a controller that doesn't answer is asked again
BEAT = 0.5  # seconds
Beat = Callable[[], None]


@dataclass(frozen=True)
class JobConfig:
    """Settings of the jobs of a submission.

    `code` and `modules` are the code that the sweep was launched with and the user's own modules;
    `workers` to `checkpoint_seconds` are as in `SlurmRunner`; `attempts` is how often a cell may
    be lost with its job; `notice_seconds` is how long before its end a job is told (0: not at
    all); `stage_data` is a folder on the node's own disk for the data; `tries` is how often jobs
    with these shards have died before any of their cells began.
    """

    code: str
    modules: Mapping[str, str] = field(default_factory=dict)
    workers: int | None = None
    device: str = "auto"
    cell_seconds: float | None = None
    memory_gb: float | None = None
    checkpoint_seconds: float | None = None
    attempts: int = 5
    notice_seconds: float = 0.0
    stage_data: str | None = None
    tries: int = 0


@dataclass(frozen=True)
class Submission:
    """One job array.

    The token is unique, and part of the job's name, so that the job is found again whatever its
    number. `since` is when it was made (ISO 8601, in the submitting machine's time zone).
    """

    folder: SweepFolder
    token: str
    job_name: str
    size: int
    since: str
    job_config: JobConfig

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.folder.slurm / self.token

    @property
    def script(self) -> Path:
        """The batch script."""
        return self.path / "script.sh"

    @property
    def logs(self) -> Path:
        """Output of its jobs."""
        return self.path / "logs"

    def lease_dir(self, index: int) -> Path:
        """Return an element's lease: a folder that is there until all its cells have ended."""
        return self.folder.journals / f"{self.token}-{index}"

    def open_indices(self) -> list[int]:
        """Return the elements whose cells have not all ended."""
        return [index for index in range(self.size) if self.lease_dir(index).is_dir()]

    def job_id(self) -> str | None:
        """Return the array's number; None where sbatch is not known to have answered."""
        with suppress(FileNotFoundError):
            return (self.path / "job_id").read_text().strip() or None
        return None

    def submitted(self, job_id: str) -> None:
        """Keep the array's number."""
        atomic_write(self.path / "job_id", f"{job_id}\n".encode())

    def shard(self, index: int) -> Shard:
        """Read what an element has to do."""
        path = self.path / "shards" / f"{index}.json"
        try:
            return tuple(_pack(each) for each in json.loads(path.read_text()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FaninError(f"{path}: can't be read ({error})") from error

    def forget(self) -> None:
        """Remove all but the logs: it was never submitted."""
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
    name = f"{folder.root.name[:NAME_LENGTH]}.{token}"
    submission = Submission(folder, token, name, len(shards), now, job_config)
    with writing(submission.path):
        (submission.path / "shards").mkdir(parents=True)
        submission.logs.mkdir()
    for index, shard in enumerate(shards):
        text = json.dumps([asdict(pack) for pack in shard])
        atomic_write(submission.path / "shards" / f"{index}.json", text.encode())
    about = {
        "job_name": name,
        "size": len(shards),
        "since": now,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "job_config": asdict(job_config),
    }
    atomic_write(submission.path / "submission.json", json.dumps(about, indent=1).encode())
    with writing(folder.journals):
        for index in range(submission.size):
            submission.lease_dir(index).mkdir(parents=True)
    return submission


def read_submission(folder: SweepFolder, token: str) -> Submission:
    """Read a submission by its token."""
    path = folder.slurm / token / "submission.json"
    try:
        said: dict[str, Any] = json.loads(path.read_text())
        job_config = JobConfig(**said["job_config"])
        return Submission(folder, token, said["job_name"], said["size"], said["since"], job_config)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FaninError(f"{path}: can't be read ({error})") from error


def open_submissions(folder: SweepFolder) -> list[Submission]:
    """Return the submissions of a sweep that have elements left, in the order of their tokens."""
    if not folder.journals.is_dir():
        return []
    rights = (path.name for path in folder.journals.iterdir() if path.is_dir())
    tokens = {name.rpartition("-")[0] for name in rights if name.rpartition("-")[2].isdecimal()}
    there = sorted(token for token in tokens if (folder.slurm / token).is_dir())
    return [read_submission(folder, token) for token in there]


def cells_in_jobs(folder: SweepFolder) -> dict[str, str]:
    """Return the cells that jobs have or will have in hand, each with its job's name."""
    return {
        task.cell_id: submission.job_name
        for submission in open_submissions(folder)
        for index in submission.open_indices()
        for pack in submission.shard(index)
        for task in pack.cells
    }


def _pack(said: Mapping[str, Any]) -> Pack:
    tasks = tuple(PackedCell(**each) for each in said["cells"])
    return Pack(tasks, said["engine"], said["seconds"])


def submit(submission: Submission, beat: Beat, patience: float = PATIENCE) -> None:
    """Submit an array, unless that has been done already, and keep its number.

    While the controller doesn't answer, ask again for up to `patience` seconds. It may have taken
    the job all the same, so each time the queue is searched first.

    Raises
    ------
    SlurmError
        Slurm refuses such a job (`SlurmJobLimit`: more jobs at once), or nobody answered for all
        that time (`SlurmUnavailable`).
    """
    wait, until = FIRST_WAIT, time.monotonic() + patience
    while True:
        try:
            submission.submitted(find(submission) or _sbatch(submission))
            return
        except SlurmUnavailable:
            if time.monotonic() + wait > until:
                raise
        pause(wait, beat)
        wait = min(2 * wait, LONGEST_WAIT)


def find(submission: Submission) -> str | None:
    """Return the number of the array that a submission became; None where it became none."""
    for element in waiting([submission.job_name]).values():
        return element.job
    try:
        for runs in ended([submission.job_name], submission.since).values():
            return runs[-1].job
    except SlurmNoAccounting:  # what has run has left its traces
        pass
    rights = [submission.lease_dir(index) for index in range(submission.size)]
    if any(not right.is_dir() or any(right.iterdir()) for right in rights):
        return "unknown"
    return None


def _sbatch(submission: Submission) -> str:
    said = call("sbatch", "--parsable", str(submission.script))
    return said.strip().splitlines()[-1].partition(";")[0]


def pause(seconds: float, beat: Beat) -> None:
    """Wait, calling `beat` now and then."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        beat()
        time.sleep(min(left, BEAT))


def log_path(folder: SweepFolder) -> Path:
    """Return the path of the log that every status of the sweep shows."""
    return folder.slurm / "log.txt"


def log(folder: SweepFolder, text: str) -> None:
    """Add a line to what every view of the sweep shows; a full disk is no reason to stop."""
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    with suppress(OSError), log_path(folder).open("a") as file:
        file.write(f"{now} {' '.join(text.split())}\n")


def read_log(folder: SweepFolder) -> list[str]:
    """Return all lines, the oldest first."""
    with suppress(OSError):
        return log_path(folder).read_text(errors="replace").splitlines()
    return []
