"""A console whose reader may leave: the sweep goes on, and says nothing more."""

from __future__ import annotations

import os
import sys

from rich.console import Console


class UnreadConsole(Console):
    """Falls silent where `| head` has seen enough; rich would end the process, as if it failed."""

    def on_broken_pipe(self) -> None:
        """Print nothing any more."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # what is still buffered goes there at the end
        os.close(nowhere)
