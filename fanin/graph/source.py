"""The line of the user's code that calls a torch function."""

from __future__ import annotations

import linecache
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType

import torch
from torch.utils.checkpoint import CheckpointFunction

OWN_FOLDERS = (str(Path(torch.__file__).parent) + "/", str(Path(__file__).parent) + "/")
_APPLY = torch.autograd.Function.apply.__func__.__code__  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Source:
    """Place of a call.

    Attributes
    ----------
    file, number
        Path and line number of the user's line; an empty path if all frames are torch's.
    custom_function
        Name of the `torch.autograd.Function` whose `forward` makes the call; empty if there is
        none.
    in_checkpoint
        True inside a reentrant `torch.utils.checkpoint.checkpoint`, which runs without gradients
        and computes them by a second run.
    """

    file: str = ""
    number: int = 0
    custom_function: str = ""
    in_checkpoint: bool = False

    @property
    def line(self) -> str:
        """Return the file name, the line number and the line."""
        return _format(self.file, self.number) if self.file else ""


def find_source(frame: FrameType | None, outermost: CodeType) -> Source:
    """Return the innermost line outside torch and this package, up to the frame `outermost`."""
    file, number, custom_function, in_checkpoint = "", 0, "", False
    while frame is not None and frame.f_code is not outermost:
        code = frame.f_code
        if code is _APPLY:
            cls = frame.f_locals["cls"]
            if cls is CheckpointFunction:
                in_checkpoint = True
            else:
                custom_function = cls.__name__
        elif not file and not code.co_filename.startswith(OWN_FOLDERS):
            file, number = code.co_filename, frame.f_lineno
        frame = frame.f_back
    return Source(file, number, custom_function, in_checkpoint)


def error_line(error: BaseException) -> str:
    """Return the innermost line outside torch and this package at which an error was raised."""
    line = ""
    for frame, number in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        if not file.startswith(OWN_FOLDERS):
            line = _format(file, number)
    return line


def _format(file: str, number: int) -> str:
    text = linecache.getline(file, number).strip()
    return f"{Path(file).name}:{number}: {text}".removesuffix(": ")
