"""Checkpoint of one cell, from which another process can resume it to the bit.

The file is a line of JSON (what it belongs to, and its content's hash), followed by the content.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from glob import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from experiments.atomic_write import WriteError, atomic_write
from experiments.training.step import NetworkState, Params


class Stopped(BaseException):
    """A cell was told to stop and has saved its checkpoint; no failure of the cell's.

    Like `KeyboardInterrupt`, so that no `except Exception` takes it for one.
    """


@dataclass(frozen=True)
class TrainState:
    """A network in the middle of its training.

    It holds no random numbers: those drawn for a step depend on the step's number alone.

    Parameters
    ----------
    step
        Number of steps taken.
    state
        Parameters, the optimizer's state, and whether it has diverged (`training/step.py`).
    buffers
        Buffers of a user's own network.
    losses
        Loss of every step taken [step].
    curves
        Columns of the `curves` table so far: points measured on the test set.
    seconds
        Time spent on training.
    """

    step: int
    state: NetworkState
    buffers: Params
    losses: Tensor
    curves: dict[str, list[Any]]
    seconds: float

    def copy_to(self, device: torch.device | str) -> TrainState:
        """Return a copy on a device, each tensor in its memory format and memory of its own."""
        tensors = (self.state, self.buffers, self.losses)
        state, buffers, losses = tree_map(lambda t: t.detach().to(device, copy=True), tensors)
        return replace(self, state=state, buffers=buffers, losses=losses)

    @torch.no_grad()
    def load_buffers(self, model: nn.Module) -> None:
        """Copy the saved buffers into a network."""
        for name, buffer in model.named_buffers():
            buffer.copy_(self.buffers[name])


@dataclass(frozen=True)
class CellCheckpoint:
    """A cell in the middle: measurements so far, and its training, once that has begun.

    Parameters
    ----------
    draws
        By draw, the columns of the tables (`layers`, `histograms`, `tensors`) measured at
        initialization.
    probes
        Those measured in training, each with its constant columns (draw and step).
    seconds
        Time spent before training.
    train_state
        Its training.
    """

    draws: dict[int, dict[str, Any]] = field(default_factory=dict)
    probes: list[tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=list)
    seconds: float = 0.0
    train_state: TrainState | None = None


@dataclass
class Checkpointer:
    """Reads and writes one cell's checkpoint, and says when to.

    A damaged file or a full disk is no error: the cell runs without. `load_error` says why the
    file found was not used, `save_error` why the last attempt to write failed; None if all is well.

    Parameters
    ----------
    path
        Path of the checkpoint; its folder is made when needed.
    every
        Seconds between two checkpoints.
    stop
        Polled after draws and training steps; True stops the cell there.
    code
        Version of the code that runs. Checkpoints of other code are not used.
    poll_every
        Seconds between two calls of `stop`, which may have to look at a file on a slow disk.
    """

    path: Path
    every: float = math.inf
    stop: Callable[[], bool] = lambda: False
    code: str = ""
    poll_every: float = 0.5
    load_error: str | None = field(default=None, init=False)
    save_error: str | None = field(default=None, init=False)
    _key: dict[str, str] = field(default_factory=dict, init=False)
    _last_save: float = field(default_factory=time.monotonic, init=False)
    _last_poll: float = field(default=-math.inf, init=False)
    _stopping: bool = field(default=False, init=False)

    def load(self, key: Mapping[str, str]) -> CellCheckpoint | None:
        """Return the checkpoint, on the CPU; None if there is none that can be resumed from.

        Parameters
        ----------
        key
            Names and values that must be the same for a cell to resume, besides the code and
            torch's version.
        """
        self._key = {**key, "code": self.code, "torch": torch.__version__}
        self._last_save, self._last_poll = time.monotonic(), -math.inf
        self.load_error = None
        try:
            return _decode(self.path.read_bytes(), self._key)
        except FileNotFoundError:
            return None
        except OSError as error:
            self.load_error = f"it can't be read ({error.strerror or error})"
        except ValueError as error:
            self.load_error = str(error)
        return None

    def should_save(self) -> bool:
        """Return True if it is time to save; to be called after every draw and training step."""
        now = time.monotonic()
        if now - self._last_poll >= self.poll_every:
            self._last_poll, self._stopping = now, self.stop()
        return self._stopping or now - self._last_save >= self.every

    def save(self, checkpoint: CellCheckpoint) -> None:
        """Replace the file atomically."""
        try:
            atomic_write(self.path, _encode(checkpoint, self._key))
            self.save_error = None
        except WriteError as error:
            self.save_error = f"{self.path}: {error.reason}"
        except MemoryError:
            self.save_error = f"{self.path}: no memory to write it from"
        self._last_save = time.monotonic()

    def raise_if_stopped(self) -> None:
        """Raise `Stopped` if `stop` was the reason to save."""
        if self._stopping:
            raise Stopped

    def delete(self) -> None:
        """Delete the file, and temporary files of a process that was killed while writing it."""
        leftovers = self.path.parent.glob(f".{escape(self.path.name)}.*.part")
        try:
            for path in (self.path, *leftovers):
                path.unlink(missing_ok=True)
        except OSError as error:
            self.save_error = f"{self.path}: can't be deleted ({error.strerror or error})"


def saved_progress(path: Path) -> tuple[int, int]:
    """Return the numbers of training steps and draws in a checkpoint; (0, 0) if it is unusable."""
    try:
        checkpoint = _decode(path.read_bytes(), None)
    except (OSError, ValueError):
        return 0, 0
    steps = 0 if checkpoint.train_state is None else checkpoint.train_state.step
    return steps, len(checkpoint.draws)


def _encode(checkpoint: CellCheckpoint, key: Mapping[str, str]) -> bytes:
    train_state = checkpoint.train_state and vars(checkpoint.train_state.copy_to("cpu"))
    content = io.BytesIO()
    torch.save({**vars(checkpoint), "train_state": train_state}, content)
    digest = hashlib.sha256(content.getbuffer()).hexdigest()
    head = json.dumps({"about": key, "sha256": digest})
    return head.encode() + b"\n" + content.getbuffer()


def _decode(data: bytes, key: Mapping[str, str] | None) -> CellCheckpoint:
    """Raise ValueError if the data is damaged or was saved under another key (None: any)."""
    line, _, content = data.partition(b"\n")
    try:
        head = json.loads(line)
        found, digest = head["about"], head["sha256"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError("it is torn, or no checkpoint") from error
    if digest != hashlib.sha256(content).hexdigest():
        raise ValueError("it is torn: its content has another SHA-256 sum")
    if key is not None and found != key:
        different = [name for name in key if found.get(name) != key[name]]
        raise ValueError(f"it was written for something else ({', '.join(different)})")
    try:
        fields = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # a user's own optimizer may keep anything
        raise ValueError(f"it holds more than tensors and plain data ({error})") from error
    train_state = fields["train_state"]
    return CellCheckpoint(**{**fields, "train_state": train_state and TrainState(**train_state)})
