"""Processes as /proc shows them; a zombie counts as gone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from .layout import ClusterError, Layout

DAEMONS = {"munged", "mariadbd", "slurmdbd", "slurmctld", "slurmscriptd", "slurmd"}
CLIENTS = {"srun", "salloc", "sbatch", "squeue", "scancel", "scontrol", "sinfo", "sacct"}


@dataclass(frozen=True)
class Process:
    """One living process."""

    pid: int
    started: int  # in clock ticks since boot: tells it from a later process of the same number
    parent: int
    name: str
    arguments: tuple[str, ...]
    environment: tuple[str, ...]  # "NAME=value"

    def mentions(self, text: str) -> bool:
        return any(text in word for word in self.arguments + self.environment)

    def lives(self) -> bool:
        """Return True if it still runs; one that is just ending shows no arguments, but lives."""
        fields = _stat(self.pid)
        return fields is not None and int(fields[20]) == self.started

    def open_files(self) -> list[str]:
        try:
            return [os.readlink(entry) for entry in Path(f"/proc/{self.pid}/fd").iterdir()]
        except OSError:  # it has just ended
            return []


def process(pid: int) -> Process | None:
    """Look at one process; None if there is none, or only a zombie."""
    fields = _stat(pid)
    if fields is None:
        return None
    try:
        arguments = _words(Path(f"/proc/{pid}/cmdline"))
        environment = _words(Path(f"/proc/{pid}/environ"))
    except OSError:  # it has just ended, or is not ours to see
        return None
    return Process(pid, int(fields[20]), int(fields[2]), fields[0], arguments, environment)


def processes() -> list[Process]:
    """Look at all living processes but this one."""
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdecimal()]
    found = (process(pid) for pid in pids if pid != os.getpid())
    return [one for one in found if one is not None]


def with_descendants(roots: Iterable[Process], everything: list[Process]) -> list[Process]:
    """Add all children of children, parents first."""
    chosen = list(roots)
    known = {one.pid for one in chosen}
    for one in chosen:  # grows while it is walked
        for child in everything:
            if child.parent == one.pid and child.pid not in known:
                known.add(child.pid)
                chosen.append(child)
    return chosen


def kill_all(choose: Callable[[list[Process]], list[Process]], seconds: float = 10) -> int:
    """SIGKILL what `choose` picks until nothing of it lives; return how many processes it was."""
    killed: dict[int, Process] = {}
    deadline = time.monotonic() + seconds
    while True:
        chosen = choose(processes())
        for one in chosen:
            send(one.pid, signal.SIGKILL)
            killed[one.pid] = one
        left = [one for one in killed.values() if one.lives()]
        if not chosen and not left:
            return len(killed)
        if time.monotonic() > deadline:
            names = ", ".join(f"{one.pid} ({one.name})" for one in left)
            raise ClusterError(f"still alive {seconds:.0f} s after SIGKILL: {names}")
        time.sleep(0.02)


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal, to a process that may have ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _stat(pid: int) -> list[str] | None:
    """Read the second and following fields of proc(5)'s stat; None for a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    fields = [name, *rest.split()]
    return None if fields[1] in "ZX" else fields


def _words(path: Path) -> tuple[str, ...]:
    return tuple(path.read_bytes().decode(errors="replace").rstrip("\0").split("\0"))


def of_cluster(layout: Layout, everything: list[Process]) -> list[Process]:
    """Pick a cluster's daemons, step daemons, jobs, and clients that wait for an answer."""

    def belongs(one: Process) -> bool:
        if one.name in DAEMONS and one.mentions(f"{layout.folder}/"):
            return True
        if one.name in CLIENTS and f"SLURM_CONF={layout.slurm_conf}" in one.environment:
            return True
        return _is_step(layout, one) or _is_job(layout, one)

    return with_descendants(filter(belongs, everything), everything)


def of_node(layout: Layout, node: str, everything: list[Process]) -> list[Process]:
    """Pick what a power cut at one node ends: slurmd first, then step daemons, then jobs."""
    daemon = [one for one in everything if _is_slurmd(layout, one, node)]
    steps = [one for one in everything if _is_step(layout, one, node)]
    jobs = [one for one in everything if _is_job(layout, one, node)]
    return with_descendants([*daemon, *steps, *jobs], everything)


def _is_slurmd(layout: Layout, one: Process, node: str) -> bool:
    command = ("-f", str(layout.slurm_conf), "-N", node)
    return one.name == "slurmd" and one.arguments[-4:] == command


def _is_step(layout: Layout, one: Process, node: str = "*") -> bool:
    log = f"{layout.log}/slurmd-{node}.log"
    return one.name == "slurmstepd" and any(fnmatch(path, log) for path in one.open_files())


def _is_job(layout: Layout, one: Process, node: str = "*") -> bool:
    if f"SLURM_CLUSTER_NAME={layout.cluster_name}" not in one.environment:
        return False
    return any(fnmatch(word, f"SLURMD_NODENAME={node}") for word in one.environment)
