"""Daemons of a cluster, and calls of Slurm's client commands.

A daemon keeps running after the process that started it, and is found again by its pid file.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .layout import ClusterError, Layout, Settings, UsageError
from .network import inside
from .processes import Process, find_process, send

NO_SYNC = "--debug-no-sync=1"  # MariaDB's tables need not survive a power failure
PATH = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/local/sbin:/usr/sbin:/sbin"


def scale_timeout(seconds: float) -> float:
    """Return a timeout, scaled up by the load of this machine."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def wait_for(description: str, condition: Callable[[], bool], seconds: float) -> None:
    """Wait until the condition is true; raise ClusterError after the timeout."""
    deadline = time.monotonic() + scale_timeout(seconds)
    while not condition():
        if time.monotonic() > deadline:
            raise ClusterError(f"timeout after {scale_timeout(seconds):.0f} s: {description}")
        time.sleep(0.05)


@dataclass(frozen=True)
class Daemon:
    """A background program and its pid file."""

    name: str
    program: str
    command: tuple[str, ...]
    folder: Path
    pid_file: Path
    environment: dict[str, str] = field(repr=False)

    @property
    def output(self) -> Path:
        return self.folder / "log" / f"{self.name}.out"

    def pid(self) -> int | None:
        """Return the daemon's process id; None if it is not running."""
        daemon = self._process()
        return daemon.pid if daemon else None

    def launch(self) -> subprocess.Popen[bytes]:
        """Start it in a new session, without waiting."""
        self.pid_file.unlink(missing_ok=True)
        with self.output.open("ab") as output:
            return subprocess.Popen(
                self.command,
                env=self.environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def start(self, seconds: float = 30) -> None:
        """Start it if it is not running, and wait for its pid file."""
        if self.pid() is None:
            self.wait_for_pid(self.launch(), seconds)

    def wait_for_pid(self, launched: subprocess.Popen[bytes], seconds: float = 30) -> None:
        deadline = time.monotonic() + scale_timeout(seconds)
        while self.pid() is None:
            if launched.poll() or time.monotonic() > deadline:
                raise ClusterError(f"{self.name} did not start: {self._last_log_line()}")
            time.sleep(0.02)

    def stop(self, seconds: float = 10) -> bool:
        """End it with SIGTERM, or SIGKILL after the timeout; return True if it was running."""
        return self._end(signal.SIGTERM, seconds)

    def kill(self) -> bool:
        return self._end(signal.SIGKILL, 10)

    def _end(self, number: signal.Signals, seconds: float) -> bool:
        daemon = self._process()
        if daemon is None:
            return False
        send(daemon.pid, number)
        try:
            wait_for(f"{self.name} to end", lambda: not daemon.is_alive(), seconds)
        except ClusterError:
            if number == signal.SIGKILL:
                raise
            return self.kill()
        return True

    def _process(self) -> Process | None:
        try:
            candidate = find_process(int(self.pid_file.read_text()))
        except (OSError, ValueError):
            return None
        # The pid file may be old, and its number reused by another process.
        if candidate is None or candidate.name != self.program:
            return None
        return candidate if candidate.mentions(f"{self.folder}/") else None

    def _last_log_line(self) -> str:
        logs = [self.output, self.output.with_suffix(".log")]
        lines = [line for log in logs if log.exists() for line in log.read_text().splitlines()]
        return f"{lines[-1]} (logs: {self.output.parent})" if lines else f"{self.output} is empty"


def environment(layout: Layout) -> dict[str, str]:
    """Return the environment of daemons and clients, without the caller's own Slurm settings."""
    return {
        "PATH": PATH,
        "LANG": "C.UTF-8",
        "HOME": os.environ.get("HOME", "/"),
        "SLURM_CONF": str(layout.slurm_conf),
        "MYSQL_UNIX_PORT": str(layout.mysql_socket),  # read by slurmdbd
    }


def munged(layout: Layout) -> Daemon:
    files = {
        "key-file": layout.run / "munge.key",
        "socket": layout.munge_socket,
        "pid-file": layout.run / "munged.pid",
        "log-file": layout.log / "munged.log",
        "seed-file": layout.run / "munge.seed",
    }
    # --force: accept a socket in a temporary folder that only its owner can enter.
    command = ("munged", "--force", *(f"--{name}={path}" for name, path in files.items()))
    return _daemon(layout, "munged", command)


def mariadbd(layout: Layout) -> Daemon:
    command = (
        "mariadbd",
        "--no-defaults",
        "--user=root",
        f"--datadir={layout.run}/mysql",
        f"--tmpdir={layout.run}/mysql-tmp",
        f"--socket={layout.mysql_socket}",
        f"--pid-file={layout.run}/mariadbd.pid",
        "--skip-networking",
        "--innodb-buffer-pool-size=64M",
        "--innodb-log-file-size=16M",
        "--innodb-lock-wait-timeout=900",
        NO_SYNC,
    )
    return _daemon(layout, "mariadbd", command)


def slurmdbd(layout: Layout) -> Daemon:
    return _daemon(layout, "slurmdbd", ("slurmdbd",))


def slurmctld(layout: Layout) -> Daemon:
    return _daemon(layout, "slurmctld", ("slurmctld", "-f", str(layout.slurm_conf)))


def slurmd(layout: Layout, settings: Settings, node: str) -> Daemon:
    if node not in settings.node_names:
        known = ", ".join(settings.node_names)
        raise UsageError(f"unknown node {node}; nodes: {known}")
    command: tuple[str, ...] = ("slurmd", "-f", str(layout.slurm_conf), "-N", node)
    if settings.subnet:
        command = inside(layout, node, command)
    return _daemon(layout, f"slurmd-{node}", command, "slurmd")


def all_daemons(layout: Layout, settings: Settings) -> list[Daemon]:
    """List the daemons of a running cluster."""
    database = [mariadbd(layout), slurmdbd(layout)] if settings.options.accounting else []
    nodes = [slurmd(layout, settings, name) for name in settings.node_names]
    return [munged(layout), *database, slurmctld(layout), *nodes]


def _daemon(
    layout: Layout, name: str, command: tuple[str, ...], program: str | None = None
) -> Daemon:
    pid_file = layout.run / f"{name}.pid"
    return Daemon(name, program or name, command, layout.folder, pid_file, environment(layout))


def try_client(layout: Layout, *command: str, seconds: float = 10) -> str | None:
    """Return the output of a client command; None if it fails or times out."""
    try:
        return run_client(layout, *command, seconds=seconds)
    except ClusterError:
        return None


def run_client(layout: Layout, *command: str, seconds: float = 30) -> str:
    """Run a client command and return its output; raise ClusterError if it fails."""
    try:
        result = subprocess.run(
            command,
            env=environment(layout),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=scale_timeout(seconds),
        )
    except subprocess.TimeoutExpired:
        raise ClusterError(f"{' '.join(command)}: no answer in {seconds:.0f} s") from None
    if result.returncode:
        message = result.stderr.strip() or result.stdout.strip()
        raise ClusterError(f"{' '.join(command)}: {message}")
    return result.stdout
