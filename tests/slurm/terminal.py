"""A command in a pseudo-terminal, with simulated keys."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress

CTRL_C = "\x03"
ENTER = "\r"
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # colours and cursor positions


class Terminal:
    """Command in a pseudo-terminal; Ctrl-C reaches all of its processes."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        self._master, slave = pty.openpty()
        # Tests that run in the background ignore Ctrl-C; the command must not inherit that.
        full_command = ["env", "--default-signal=INT", "setsid", "--ctty", *command]
        self.process = subprocess.Popen(
            full_command, env=env, stdin=slave, stdout=slave, stderr=slave
        )
        os.close(slave)
        self._output_bytes = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # Linux raises it when the last writer has closed the terminal
            while chunk := os.read(self._master, 1 << 16):
                self._output_bytes += chunk

    @property
    def output(self) -> str:
        """Output so far, without colours."""
        return CONTROL.sub("", self._output_bytes.decode(errors="replace"))

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def end(self, seconds: float) -> int:
        """Wait until the command ends; return its exit status."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the command still runs:\n{self.output}") from None
        self._reader.join(seconds)
        os.close(self._master)
        return status
