"""Repeated execution of a function as a CUDA graph, with one launch instead of one per kernel."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

WARM_UP = 3  # calls before the capture: torch and its libraries then have their workspaces

Capture = Callable[[Callable[[], None]], Callable[[], None]]


@dataclass
class CaptureLog:
    """Captures of this process.

    Parameters
    ----------
    count
        Number of successful captures.
    failure
        Message of the capture that failed; None if none has. torch's allocator and random number
        generator can be left in an inconsistent state, so this process then captures no more.
    """

    count: int = 0
    failure: str | None = None


CAPTURES = CaptureLog()


class GraphedFunction:
    """A function without arguments that reads and writes the same tensors in each call.

    The first calls run it as usual. Then a call captures it as a CUDA graph, and all further calls
    replay the graph. If a capture fails, a message is printed, `CAPTURES` records it, and all
    functions of the process that have not been captured run as usual.

    Parameters
    ----------
    function
        Enqueues work on the current device. It must not wait for the device, nor allocate a tensor
        that is used after the call.
    capture
        Captures the function without running it, and returns the replay. None never captures.
    """

    def __init__(self, function: Callable[[], None], capture: Capture | None) -> None:
        self._function, self._capture = function, capture
        self._n_calls = 0
        self._replay: Callable[[], None] | None = None

    def __call__(self) -> None:
        """Run the function once."""
        self._n_calls += 1
        if self._capture is not None and self._n_calls == WARM_UP + 1 and not CAPTURES.failure:
            try:
                self._replay = self._capture(self._function)
                CAPTURES.count += 1
            except RuntimeError as error:
                _report(error)
        (self._replay or self._function)()


def capture_cuda(function: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Capture a function as a CUDA graph; return the graph's replay.

    Parameters
    ----------
    function
        Enqueues work on `device`.
    device
        A CUDA device. It need not be the current one.

    Raises
    ------
    RuntimeError
        The capture failed or is empty. The current device and stream are those before the call.
    """
    stream = _capture_stream(device)
    try:
        # If the capture fails, `torch.cuda.graph` raises before it leaves its stream.
        with torch.cuda.device(device), torch.cuda.stream(stream), warnings.catch_warnings():
            warnings.filterwarnings("error", message="The CUDA Graph is empty")
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                function()
    except Warning as warning:
        raise RuntimeError(str(warning)) from warning

    def replay() -> None:
        with torch.cuda.device(device):
            graph.replay()

    return replay


def copy_tree(target: Any, source: Any) -> None:
    """Copy the tensors of nested dictionaries into those of the same names."""
    if isinstance(target, Tensor):
        target.copy_(source)
        return
    for name, value in target.items():
        copy_tree(value, source[name])


@cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """Return a stream of this device (torch's own is on the device of the first capture)."""
    return torch.cuda.Stream(device)


def _report(error: RuntimeError) -> None:
    """Record and print the first error of a capture, of which the others are consequences."""
    first: BaseException = error
    while first.__context__ is not None and first.__cause__ is None:
        first = first.__context__
    CAPTURES.failure = str(first).strip().partition("\n")[0] or type(first).__name__
    print(
        f"CUDA graph not captured, each kernel is launched on its own: {CAPTURES.failure}",
        file=sys.stderr,
        flush=True,
    )
