"""Checkpoints of a cell, from which another process resumes with bit-identical results.

The file is a line of JSON (the checkpoint's key and the content's hash), followed by the content.
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
    """Raised when a cell has been stopped and has saved its checkpoint.

    It derives from BaseException, like KeyboardInterrupt, so that `except Exception` does not
    treat it as a failure of the cell.
    """


@dataclass(frozen=True)
class TrainState:
    """State of a network during training.

    It contains no random number state: random numbers depend only on the seed and the step.

    Parameters
    ----------
    step
        Number of steps taken.
    state
        Parameters, optimizer state, step number and step of divergence (`training/step.py`).
    buffers
        Buffers of a user's network.
    losses
        Loss of each step so far.
    curves
        Columns of the `curves` table so far: evaluations on the test set.
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
        """Return a deep copy on a device; tensors keep their memory format."""
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
    """Measurements of a cell so far, and the state of its training.

    Parameters
    ----------
    draws
        Measurements at initialization: columns of the tables (`layers`, `histograms`, `tensors`),
        by draw.
    probes
        Measurements during training, each with its constant columns (draw and step).
    seconds
        Time spent before training.
    train_state
        State of training; None before training.
    """

    draws: dict[int, dict[str, Any]] = field(default_factory=dict)
    probes: list[tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=list)
    seconds: float = 0.0
    train_state: TrainState | None = None


@dataclass
class Checkpointer:
    """Reads and writes one cell's checkpoint, and decides when to save.

    A damaged file or a full disk is not an error; the cell runs without the checkpoint. The
    attributes `load_error` and `save_error` give the reason why the last load or save failed (None
    if it succeeded).

    Parameters
    ----------
    path
        Path of the checkpoint; missing folders are created.
    every
        Seconds between two checkpoints.
    stop
        Polled after draws and training steps; True stops the cell.
    code
        Version of the running code. Checkpoints of another version are not used.
    poll_every
        Seconds between two calls of `stop`, which may be slow (a file on a network disk).
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
        """Return the checkpoint on the CPU; None if there is no usable one.

        Parameters
        ----------
        key
            Values that must equal those at the time of saving. The versions of the code and of
            torch must be equal too.
        """
        self._key = {**key, "code": self.code, "torch": torch.__version__}
        self._last_save, self._last_poll = time.monotonic(), -math.inf
        self.load_error = None
        try:
            return _decode(self.path.read_bytes(), self._key)
        except FileNotFoundError:
            return None
        except OSError as error:
            self.load_error = f"can't be read ({error.strerror or error})"
        except ValueError as error:
            self.load_error = str(error)
        return None

    def should_save(self) -> bool:
        """Return True if it is time to save. Call this after each draw and training step."""
        now = time.monotonic()
        if now - self._last_poll >= self.poll_every:
            self._last_poll, self._stopping = now, self.stop()
        return self._stopping or now - self._last_save >= self.every

    def save(self, checkpoint: CellCheckpoint) -> None:
        """Write the checkpoint atomically, in place of the last one."""
        try:
            atomic_write(self.path, _encode(checkpoint, self._key))
            self.save_error = None
        except WriteError as error:
            self.save_error = f"{self.path}: {error.reason}"
        except MemoryError:
            self.save_error = f"{self.path}: out of memory while writing"
        self._last_save = time.monotonic()

    def raise_if_stopped(self) -> None:
        """Raise `Stopped` if `stop` has returned True."""
        if self._stopping:
            raise Stopped

    def delete(self) -> None:
        """Delete the file, and temporary files of processes that were killed while writing it."""
        leftovers = self.path.parent.glob(f".{escape(self.path.name)}.*.part")
        try:
            for path in (self.path, *leftovers):
                path.unlink(missing_ok=True)
        except OSError as error:
            self.save_error = f"{self.path}: can't be deleted ({error.strerror or error})"


def saved_progress(path: Path) -> tuple[int, int]:
    """Return a checkpoint's numbers of training steps and draws; (0, 0) if it is unusable."""
    try:
        checkpoint = _decode(path.read_bytes(), None)
    except (OSError, ValueError, KeyError, TypeError):  # TypeError: fields of another version
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
    """Decode a file; raise ValueError if it is damaged or has another key (None: any key)."""
    line, _, content = data.partition(b"\n")
    try:
        head = json.loads(line)
        saved_key, digest = head["about"], head["sha256"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError("damaged, or not a checkpoint") from error
    if digest != hashlib.sha256(content).hexdigest():
        raise ValueError("damaged: the SHA-256 sum of the content differs")
    if key is not None and saved_key != key:
        different = [name for name in key if saved_key.get(name) != key[name]]
        raise ValueError(f"saved with another {', '.join(different)}")
    try:
        fields = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # a user's optimizer may have any state
        raise ValueError(f"contains more than tensors and plain data ({error})") from error
    train_state = fields["train_state"]
    return CellCheckpoint(**{**fields, "train_state": train_state and TrainState(**train_state)})
