"""Errors in the user's own code: where they were raised, in one line or as a traceback."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

import fanin
from fanin.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parents[1]
OWN_PACKAGES = (
    Path(fanin.__file__).parent,
    *(REPOSITORY / name for name in ("experiments", "analysis")),
)
LIBRARIES = tuple(
    {Path(sysconfig.get_path(name)) for name in ("stdlib", "platlib", "purelib", "scripts")}
)


class UserCodeError(ConfigError):
    """Error raised by the user's model, loss or data set; the message names file and line."""


def user_code_error(key_path: str, error: BaseException) -> UserCodeError:
    """Return an error with a message of one line: the config key, file, line and reason."""
    reason = str(error).strip().partition("\n")[0]
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_user(frame)]
    if not frames:
        return UserCodeError(f"{key_path}: {reason or type(error).__name__}")
    last = frames[-1]
    location = f"{_short(Path(last.filename))}:{last.lineno}"
    text = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    return UserCodeError(f"{key_path}: {location}: {text}")


def format_traceback(error: BaseException) -> str:
    """Return an error's traceback; if the user's code is in it, without the frames of fanin.

    The frames before the first one of the user (fanin, and torch calling the user's `forward`) are
    also left out.
    """
    formatted = traceback.TracebackException.from_exception(error)
    parts = list(_chain(formatted))
    if any(_is_user(frame) for part in parts for frame in part.stack):
        for part in parts:
            first = next((n for n, frame in enumerate(part.stack) if _is_user(frame)), 0)
            kept = [frame for frame in part.stack[first:] if not _is_in(frame, OWN_PACKAGES)]
            part.stack = traceback.StackSummary.from_list(kept)
    return "".join(formatted.format())


def _chain(error: traceback.TracebackException | None) -> Iterator[traceback.TracebackException]:
    """Yield an error, its cause and its context, and theirs."""
    if error is not None:
        yield error
        yield from _chain(error.__cause__)
        yield from _chain(error.__context__)


def _is_user(frame: traceback.FrameSummary) -> bool:
    is_file = not frame.filename.startswith("<")
    return is_file and not _is_in(frame, (*OWN_PACKAGES, *LIBRARIES))


def _is_in(frame: traceback.FrameSummary, folders: tuple[Path, ...]) -> bool:
    return any(Path(frame.filename).is_relative_to(folder) for folder in folders)


def _short(path: Path) -> Path:
    """Return the path relative to the current folder, if it is in it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
