"""Error of a model whose graph cannot be recorded."""

from __future__ import annotations

from fanin.errors import FaninError


class GraphError(FaninError):
    """Error: the graph of a model cannot be recorded.

    Attributes
    ----------
    path
        Path of the module in which it happened; empty for the model itself.
    line
        The user's line, such as `net.py:34: x = x * scale.item()`; empty if there is none.
    reason
        What is wrong, and what to do.
    """

    def __init__(self, reason: str, path: str = "", line: str = "") -> None:
        place = f"layer {path}" if path else "the model"
        if line:
            place += f" at {line}"
        super().__init__(f"no graph of {place}: {reason}")
        self.reason = reason
        self.path = path
        self.line = line
