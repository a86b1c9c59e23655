"""A daemon: started so that it outlives its caller, found again by its pid file."""

from __future__ import annotations

import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from .errors import ClusterError
from .processes import Process, process, send
from .waiting import scaled, wait_for


@dataclass(frozen=True)
class Daemon:
    """What to run, and where its process id will stand."""

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
