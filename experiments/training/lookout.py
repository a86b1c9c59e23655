"""Which networks have diverged, asked of the device without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


class Lookout:
    """Reads the marks of diverged networks back while the device goes on.

    On a GPU a read-back makes the host wait until the device has done all it was given. So the
    marks are copied behind its back, and read at a later look, once the copy is there; a network
    that has diverged is frozen meanwhile. (Written for CUDA, not yet run on it.)
    """

    def __init__(self) -> None:
        self._copy: Tensor | None = None
        self._arrived: torch.cuda.Event | None = None

    def ask(self, marks: Tensor) -> list[int] | None:
        """Look at the marks; None where they are still on their way.

        Parameters
        ----------
        marks
            One per network. What is answered may be the marks of an earlier call.
        """
        if marks.device.type != "cuda":
            return marks.tolist()
        answer = None
        if self._copy is not None and self._arrived is not None and self._arrived.query():
            answer = self._copy.tolist()
        if self._copy is None or answer is not None:
            self._copy = marks.to("cpu", non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(marks.device))
        return answer

    def forget(self) -> None:
        """Drop what is on its way: the networks have been renumbered."""
        self._copy = None
