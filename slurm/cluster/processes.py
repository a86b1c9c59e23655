"""Processes from /proc; zombies count as ended."""

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
    """A running process."""

    pid: int
    started: int  # in clock ticks since boot; identifies the process if its pid is reused
    parent: int
    name: str
    arguments: tuple[str, ...]
    environment: tuple[str, ...]  # "NAME=value"

    def mentions(self, text: str) -> bool:
        return any(text in value for value in self.arguments + self.environment)

    def is_alive(self) -> bool:
        """Return True if the process has not ended, even if it is exiting and has no arguments."""
        fields = _stat(self.pid)
        return fields is not None and int(fields[20]) == self.started

    def open_files(self) -> list[str]:
        try:
            return [os.readlink(entry) for entry in Path(f"/proc/{self.pid}/fd").iterdir()]
        except OSError:  # it has just ended
            return []


def find_process(pid: int) -> Process | None:
    """Return a process by its pid; None if it does not exist or is a zombie."""
    fields = _stat(pid)
    if fields is None:
        return None
    try:
        arguments = _read_strings(Path(f"/proc/{pid}/cmdline"))
        environment = _read_strings(Path(f"/proc/{pid}/environ"))
    except OSError:  # it has just ended, or belongs to another user
        return None
    return Process(pid, int(fields[20]), int(fields[2]), fields[0], arguments, environment)


def processes() -> list[Process]:
    """Return all running processes except this one."""
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdecimal()]
    candidates = (find_process(pid) for pid in pids if pid != os.getpid())
    return [candidate for candidate in candidates if candidate is not None]


def with_descendants(roots: Iterable[Process], all_processes: list[Process]) -> list[Process]:
    """Return processes and all their descendants, parents first."""
    chosen = list(roots)
    known = {root.pid for root in chosen}
    for parent in chosen:  # the loop appends to the list
        for child in all_processes:
            if child.parent == parent.pid and child.pid not in known:
                known.add(child.pid)
                chosen.append(child)
    return chosen


def kill_all(choose: Callable[[list[Process]], list[Process]], seconds: float = 10) -> int:
    """Kill the processes that `choose` returns until none is left; return their number."""
    killed: dict[int, Process] = {}
    deadline = time.monotonic() + seconds
    while True:
        chosen = choose(processes())
        for target in chosen:
            send(target.pid, signal.SIGKILL)
            killed[target.pid] = target
        alive = [target for target in killed.values() if target.is_alive()]
        if not chosen and not alive:
            return len(killed)
        if time.monotonic() > deadline:
            names = ", ".join(f"{target.pid} ({target.name})" for target in alive)
            raise ClusterError(f"still alive {seconds:.0f} s after SIGKILL: {names}")
        time.sleep(0.02)


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process; do nothing if it has ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the second on; None if the process has ended.

    A process has ended if it is a zombie or does not exist.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    fields = [name, *rest.split()]
    return None if fields[1] in "ZX" else fields


def _read_strings(path: Path) -> tuple[str, ...]:
    return tuple(path.read_bytes().decode(errors="replace").rstrip("\0").split("\0"))


def cluster_processes(layout: Layout, all_processes: list[Process]) -> list[Process]:
    """Return a cluster's daemons, step daemons, jobs, and clients waiting for an answer."""

    def belongs(process: Process) -> bool:
        if process.name in DAEMONS and process.mentions(f"{layout.folder}/"):
            return True
        if process.name in CLIENTS and f"SLURM_CONF={layout.slurm_conf}" in process.environment:
            return True
        return _is_step(layout, process) or _is_job(layout, process)

    return with_descendants(filter(belongs, all_processes), all_processes)


def node_processes(layout: Layout, node: str, all_processes: list[Process]) -> list[Process]:
    """Return the processes of one node: slurmd first, then step daemons, then jobs."""
    daemon = [process for process in all_processes if _is_slurmd(layout, process, node)]
    steps = [process for process in all_processes if _is_step(layout, process, node)]
    jobs = [process for process in all_processes if _is_job(layout, process, node)]
    return with_descendants([*daemon, *steps, *jobs], all_processes)


def _is_slurmd(layout: Layout, process: Process, node: str) -> bool:
    command = ("-f", str(layout.slurm_conf), "-N", node)
    return process.name == "slurmd" and process.arguments[-4:] == command


def _is_step(layout: Layout, process: Process, node: str = "*") -> bool:
    log = f"{layout.log}/slurmd-{node}.log"
    return process.name == "slurmstepd" and any(fnmatch(path, log) for path in process.open_files())


def _is_job(layout: Layout, process: Process, node: str = "*") -> bool:
    if f"SLURM_CLUSTER_NAME={layout.cluster_name}" not in process.environment:
        return False
    return any(fnmatch(entry, f"SLURMD_NODENAME={node}") for entry in process.environment)
