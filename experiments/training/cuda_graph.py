"""Repeated execution of a function as a CUDA graph, with one launch instead of one per kernel."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

WARM_UP = 3  # calls before the capture: torch and its libraries then have their workspaces

Capture = Callable[[Callable[[], None]], Callable[[], None]]


class GraphedFunction:
    """A function without arguments that reads and writes the same tensors in each call.

    The first calls run it as usual. Then a call captures it as a CUDA graph, and all further calls
    replay the graph. If the capture fails, a message is printed once per process, and the function
    runs as usual.

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
        if self._replay is None and self._capture is not None and self._n_calls > WARM_UP:
            try:
                self._replay = self._capture(self._function)
            except RuntimeError as error:
                self._capture = None
                _report_once(error)
        (self._replay or self._function)()


def capture_cuda(function: Callable[[], None]) -> Callable[[], None]:
    """Capture a function as a CUDA graph; return the graph's replay."""
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


def copy_tree(target: Any, source: Any) -> None:
    """Copy the tensors of nested dictionaries into those of the same names."""
    if isinstance(target, Tensor):
        target.copy_(source)
        return
    for name, value in target.items():
        copy_tree(value, source[name])


_reported = False


def _report_once(error: RuntimeError) -> None:
    global _reported
    if not _reported:
        _reported = True
        reason = str(error).strip().partition("\n")[0]
        print(
            f"CUDA graph not captured, each kernel is launched on its own: {reason}",
            file=sys.stderr,
            flush=True,
        )
