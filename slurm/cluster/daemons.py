"""The daemons that a cluster consists of: started, waited for, and asked by Slurm's commands.

A daemon outlives its caller, and is found again by its pid file.
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
from .processes import Process, process, send

NO_SYNC = "--debug-no-sync=1"  # MariaDB's tables don't have to survive a power cut
PATH = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/local/sbin:/usr/sbin:/sbin"


def scaled(seconds: float) -> float:
    """Return a time limit for a machine as busy as this one is: more where processes queue."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def wait_for(what: str, condition: Callable[[], bool], seconds: float) -> None:
    """Ask until the condition holds; ClusterError if it does not in time."""
    deadline = time.monotonic() + scaled(seconds)
    while not condition():
        if time.monotonic() > deadline:
            raise ClusterError(f"waited {scaled(seconds):.0f} s in vain: {what}")
        time.sleep(0.05)


@dataclass(frozen=True)
class Daemon:
    """A program to run in the background, and the file that holds its process id."""

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
        """Return the daemon's process id while it lives."""
        found = self._process()
        return found.pid if found else None

    def launch(self) -> subprocess.Popen[bytes]:
        """Start it in a session of its own, without waiting."""
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
        """Start it, unless it runs, and wait until its pid file names it."""
        if self.pid() is None:
            self.await_pid(self.launch(), seconds)

    def await_pid(self, launched: subprocess.Popen[bytes], seconds: float = 30) -> None:
        deadline = time.monotonic() + scaled(seconds)
        while self.pid() is None:
            if launched.poll() or time.monotonic() > deadline:
                raise ClusterError(f"{self.name} did not start: {self._last_words()}")
            time.sleep(0.02)

    def stop(self, seconds: float = 10) -> bool:
        """End it with SIGTERM, or SIGKILL when that takes too long; return whether it ran."""
        return self._end(signal.SIGTERM, seconds)

    def kill(self) -> bool:
        return self._end(signal.SIGKILL, 10)

    def _end(self, number: signal.Signals, seconds: float) -> bool:
        found = self._process()
        if found is None:
            return False
        send(found.pid, number)
        try:
            wait_for(f"{self.name} to end", lambda: not found.lives(), seconds)
        except ClusterError:
            if number == signal.SIGKILL:
                raise
            return self.kill()
        return True

    def _process(self) -> Process | None:
        try:
            found = process(int(self.pid_file.read_text()))
        except (OSError, ValueError):
            return None
        # A pid file may outlive its daemon, and the number be another's by now.
        if found and found.name == self.program and found.mentions(f"{self.folder}/"):
            return found
        return None

    def _last_words(self) -> str:
        logs = [self.output, self.output.with_suffix(".log")]
        lines = [line for log in logs if log.exists() for line in log.read_text().splitlines()]
        return f"{lines[-1]} (logs: {self.output.parent})" if lines else f"no word in {self.output}"


def environment(layout: Layout) -> dict[str, str]:
    """Return what daemons and clients see: nothing of the caller's own Slurm."""
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
    # --force: a temporary folder that only its owner can enter is all right.
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
        raise UsageError(f"no node is called {node}; there are {known}")
    command = ("slurmd", "-f", str(layout.slurm_conf), "-N", node)
    there = inside(layout, node, command) if settings.subnet else command
    return _daemon(layout, f"slurmd-{node}", there, "slurmd")


def all_daemons(layout: Layout, settings: Settings) -> list[Daemon]:
    """List what runs while the cluster is up."""
    database = [mariadbd(layout), slurmdbd(layout)] if settings.options.accounting else []
    nodes = [slurmd(layout, settings, name) for name in settings.node_names]
    return [munged(layout), *database, slurmctld(layout), *nodes]


def _daemon(
    layout: Layout, name: str, command: tuple[str, ...], program: str | None = None
) -> Daemon:
    pid_file = layout.run / f"{name}.pid"
    return Daemon(name, program or name, command, layout.folder, pid_file, environment(layout))


def ask(layout: Layout, *command: str, seconds: float = 10) -> str | None:
    """Return what a client command prints; None if it fails or takes too long."""
    try:
        return tell(layout, *command, seconds=seconds)
    except ClusterError:
        return None


def tell(layout: Layout, *command: str, seconds: float = 30) -> str:
    """Run a client command that has to succeed, and return what it prints."""
    try:
        done = subprocess.run(
            command,
            env=environment(layout),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=scaled(seconds),
        )
    except subprocess.TimeoutExpired:
        raise ClusterError(f"{' '.join(command)}: no answer in {seconds:.0f} s") from None
    if done.returncode:
        raise ClusterError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
