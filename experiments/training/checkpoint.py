"""The file in which a long cell keeps how far it is, for when its process doesn't live to its end.

A line of JSON says what the file belongs to and how its content hashes; then comes the content.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path

import torch

from experiments.atomic_write import WriteError, atomic_write
from experiments.training.progress import Kept, Progress


class Stopped(BaseException):
    """A cell was told to stop, and has kept what it could. No failure of the cell's.

    Like `KeyboardInterrupt`, so that no `except Exception` takes it for one.
    """


@dataclass
class Keeper:
    """One cell's file, and when to write it.

    Nothing that is wrong with the file or the disk is an error: `ignored` says why what was found
    was not used, `failed` why the last attempt to write came to nothing; None where all is well.

    Parameters
    ----------
    path
        The file; its folder is made when needed.
    every
        Seconds from one writing to the next.
    stop
        Asked after draws and training steps: whether to stop there.
    code
        Names the code that runs. What other code has kept is not used.
    ask_every
        Seconds from one `stop` to the next, which may have to look at a file on a slow disk.
    """

    path: Path
    every: float = math.inf
    stop: Callable[[], bool] = lambda: False
    code: str = ""
    ask_every: float = 0.5
    ignored: str | None = field(default=None, init=False)
    failed: str | None = field(default=None, init=False)
    _about: dict[str, str] = field(default_factory=dict, init=False)
    _last: float = field(default_factory=time.monotonic, init=False)
    _asked: float = field(default=-math.inf, init=False)
    _stopping: bool = field(default=False, init=False)

    def open(self, about: Mapping[str, str]) -> Kept | None:
        """Return what the file holds, on the CPU; None where that is nothing to go on from.

        Parameters
        ----------
        about
            What, beside the code and torch's version, must be the same for a cell to go on, by
            name.
        """
        self._about = {**about, "code": self.code, "torch": torch.__version__}
        self._last, self._asked = time.monotonic(), -math.inf
        self.ignored = None
        try:
            return _decoded(self.path.read_bytes(), self._about)
        except FileNotFoundError:
            return None
        except OSError as error:
            self.ignored = f"it can't be read ({error.strerror or error})"
        except ValueError as error:
            self.ignored = str(error)
        return None

    def due(self) -> bool:
        """Whether it is time to save; to be asked after every draw and training step."""
        now = time.monotonic()
        if now - self._asked >= self.ask_every:
            self._asked, self._stopping = now, self.stop()
        return self._stopping or now - self._last >= self.every

    def save(self, kept: Kept) -> None:
        """Write the file, which is either there in full or as it was before."""
        try:
            atomic_write(self.path, _encoded(kept, self._about))
            self.failed = None
        except WriteError as error:
            self.failed = f"{self.path}: {error.reason}"
        except MemoryError:
            self.failed = f"{self.path}: no memory to write it from"
        self._last = time.monotonic()

    def go_on(self) -> None:
        """Raise `Stopped` if that was why it was time to save."""
        if self._stopping:
            raise Stopped

    def done(self) -> None:
        """Delete the file, and what a process that was killed while writing it has left."""
        leftovers = self.path.parent.glob(f".{escape(self.path.name)}.*.part")
        try:
            for path in (self.path, *leftovers):
                path.unlink(missing_ok=True)
        except OSError as error:
            self.failed = f"{self.path}: can't be deleted ({error.strerror or error})"


def how_far(path: Path) -> tuple[int, int]:
    """How many training steps and draws a file holds; none where it can't be gone on from."""
    try:
        kept = _decoded(path.read_bytes(), None)
    except (OSError, ValueError):
        return 0, 0
    return (0 if kept.progress is None else kept.progress.step), len(kept.draws)


def _encoded(kept: Kept, about: Mapping[str, str]) -> bytes:
    progress = kept.progress and vars(kept.progress.copied("cpu"))
    content = io.BytesIO()
    torch.save({**vars(kept), "progress": progress}, content)
    digest = hashlib.sha256(content.getbuffer()).hexdigest()
    head = json.dumps({"about": about, "sha256": digest})
    return head.encode() + b"\n" + content.getbuffer()


def _decoded(data: bytes, about: Mapping[str, str] | None) -> Kept:
    """What was encoded, for this (None: for whatever); a ValueError says why it can't be used."""
    line, _, content = data.partition(b"\n")
    try:
        head = json.loads(line)
        found, digest = head["about"], head["sha256"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError("it is torn, or no checkpoint") from error
    if digest != hashlib.sha256(content).hexdigest():
        raise ValueError("it is torn: its content has another SHA-256 sum")
    if about is not None and found != about:
        other = [name for name in about if found.get(name) != about[name]]
        raise ValueError(f"it was written for something else ({', '.join(other)})")
    try:
        fields = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # an optimizer of the user's may keep anything
        raise ValueError(f"it holds more than tensors and plain data ({error})") from error
    progress = fields["progress"]
    return Kept(**{**fields, "progress": progress and Progress(**progress)})
