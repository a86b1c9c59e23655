"""Console, exit statuses, and display of errors and warnings, for all commands."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from fanin.errors import FaninError, FaninWarning

UNUSABLE = 2  # exit status of a command that asks for something that can't be
INTERRUPTED = 130  # exit status after Ctrl-C, as shells have it


class BrokenPipeConsole(Console):
    """A console that falls silent where `| head` has seen enough; rich would end the process."""

    def on_broken_pipe(self) -> None:
        """Print nothing any more."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # what is still buffered goes there at the end
        os.close(nowhere)


@contextmanager
def exit_on_error(
    *also: type[Exception],
    interrupted: str = "Interrupted.",
    by: type[BaseException] = KeyboardInterrupt,
) -> Iterator[None]:
    """End the process in a few lines, without a traceback, after what the user can mend.

    The exit status is `UNUSABLE` after a FaninError or one of `also`, and `INTERRUPTED` after what
    an interruption raises. Warnings of our own are shown without source code too.
    """
    shown: tuple[type[Exception], ...] = (FaninError, *also)
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_ours(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, FaninWarning):
                print(message, file=sys.stderr)
            else:
                show(message, category, *where, **more)

        warnings.showwarning = show_ours
        try:
            yield
        except shown as error:
            print(error, file=sys.stderr)
            raise SystemExit(UNUSABLE) from None
        except by:
            print(interrupted, file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None
