"""A command at a terminal of its own, and somebody who types there."""

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
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # colours, and where to write


class Terminal:
    """A pseudo-terminal: what is typed goes through it, Ctrl-C to all processes of the command."""

    def __init__(self, words: Sequence[str], env: Mapping[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        # Whoever runs the tests in the background has them ignore Ctrl-C: not what starts here.
        own = ["env", "--default-signal=INT", "setsid", "--ctty", *words]
        self.process = subprocess.Popen(own, env=env, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        self._seen = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # as Linux says that the last writer is gone
            while more := os.read(self._ours, 1 << 16):
                self._seen += more

    @property
    def said(self) -> str:
        """All that has been written there so far, without colours."""
        return CONTROL.sub("", self._seen.decode(errors="replace"))

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def end(self, seconds: float) -> int:
        """Wait for the command's end; its exit status."""
        status = self.process.wait(seconds)
        self._reader.join(seconds)
        os.close(self._ours)
        return status
