"""Console, questions, exit statuses, and display of errors and warnings in all commands."""

from __future__ import annotations

import os
import select
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from fanin.errors import FaninError, FaninWarning

USAGE_ERROR = 2  # exit status if the request is invalid or cannot run
INTERRUPTED = 130  # exit status after Ctrl-C, as in shells
SIGNAL_CHECK_SECONDS = 0.2


class BrokenPipeConsole(Console):
    """A console that stops printing after a broken pipe (`| head`); rich would exit instead."""

    def on_broken_pipe(self) -> None:
        """Stop printing."""
        self.quiet = True
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())  # discards buffered text when the process exits
        os.close(devnull)


def ask(console: Console, question: str) -> str:
    """Print a question and return the line that the user types, or "" at the end of the input.

    Unlike `input()`, it handles a signal that arrives just before it waits, or in another thread.
    """
    console.print(question, end="", markup=False, highlight=False, soft_wrap=True)
    while not select.select([sys.stdin], [], [], SIGNAL_CHECK_SECONDS)[0]:
        pass  # Python runs signal handlers between two calls
    return sys.stdin.readline()


@contextmanager
def exit_on_error(
    *errors: type[Exception],
    interrupted: str = "Interrupted.",
    by: type[BaseException] = KeyboardInterrupt,
) -> Iterator[None]:
    """Exit with a message instead of a traceback after an error that the user can fix.

    Warnings of the package are printed without their source line.

    Parameters
    ----------
    *errors
        Exceptions handled like FaninError: print the message and exit with `USAGE_ERROR`.
    interrupted
        Message printed after an interruption; the exit status is `INTERRUPTED`.
    by
        Exception that an interruption raises.
    """
    shown: tuple[type[Exception], ...] = (FaninError, *errors)
    with warnings.catch_warnings():
        show_default = warnings.showwarning

        def show(message: Any, category: type[Warning], *args: Any, **kwargs: Any) -> None:
            if issubclass(category, FaninWarning):
                print(message, file=sys.stderr)
            else:
                show_default(message, category, *args, **kwargs)

        warnings.showwarning = show
        try:
            yield
        except shown as error:
            print(error, file=sys.stderr)
            raise SystemExit(USAGE_ERROR) from None
        except by:
            print(interrupted, file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None
