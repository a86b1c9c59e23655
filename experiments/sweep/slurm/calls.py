"""Slurm's own commands, called with patience and with a limit."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable

from fanin.errors import FaninError

SECONDS = 30.0  # that a command may take: a busy controller answers late
AWAY = re.compile(
    r"Unable to contact slurm controller|Socket timed out|Connection (refused|timed out|reset)"
    r"|Resource temporarily unavailable|Transport endpoint|Zero Bytes|slurm_persist_conn"
    r"|Unable to connect to database|Unexpected message received|backup controller"
    r"|Slurm temporarily unable|Communication connection failure",
    re.IGNORECASE,
)
UNACCOUNTED = re.compile(r"accounting storage is disabled", re.IGNORECASE)
FULL = re.compile(
    r"AssocMaxSubmitJob|QOSMaxSubmitJob|Job violates accounting/QOS policy \(job submit limit"
    r"|MaxJobCount|max(imum)? (number of )?jobs",
    re.IGNORECASE,
)


# States of jobs that have not ended.
UNDER_WAY = (
    "PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "RESIZING", "REQUEUED",
    "REQUEUE_HOLD", "SPECIAL_EXIT", "STOPPED", "SIGNALING", "STAGE_OUT", "REQUEUE_FED",
    "RESV_DEL_HOLD",
)  # fmt: skip


class SlurmError(FaninError):
    """A command of Slurm's said no."""


class SlurmAway(SlurmError):
    """Nobody answers just now; the same command may well be answered later."""


class SlurmUnaccounted(SlurmError):
    """The site keeps no accounts, so nobody knows how a job ended."""


class SlurmFull(SlurmError):
    """A limit on how many jobs may wait at once is met; later there will be room."""


def call(*words: str, seconds: float = SECONDS) -> str:
    """Run one of Slurm's commands; return what it printed.

    Raises
    ------
    SlurmError
        There is no such command here, or it said no.
    SlurmAway, SlurmFull
        As they say.
    """
    if shutil.which(words[0]) is None:
        raise SlurmError(
            f"there is no {words[0]} here: runner=slurm works on a cluster's login node "
            "(runner=local runs the same cells on this machine)"
        )
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise SlurmAway(f"{words[0]}: no answer within {seconds:g} s") from error
    if done.returncode == 0:
        return done.stdout
    said = " ".join((done.stderr or done.stdout).split()) or f"exit status {done.returncode}"
    said = said.removeprefix(f"{words[0]}: ")
    raise _kind(said)(f"{words[0]}: {said}")


def _kind(said: str) -> type[SlurmError]:
    if AWAY.search(said):
        return SlurmAway
    if UNACCOUNTED.search(said):
        return SlurmUnaccounted
    return SlurmFull if FULL.search(said) else SlurmError


def max_array_size() -> int:
    """The site's MaxArraySize: one more than the highest index that an array may have."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", call("scontrol", "show", "config"), re.M)
    if found is None:
        raise SlurmError(
            "scontrol show config doesn't tell MaxArraySize: set runner.max_array_size"
        )
    return int(found[1])


def cancel(names: Iterable[str]) -> None:
    """Cancel all jobs of these names, waiting or running."""
    for name in names:
        call("scancel", f"--name={name}")
