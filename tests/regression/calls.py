"""Count of the function calls that this repository's code makes."""

from __future__ import annotations

import gc
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = tuple(f"{ROOT / name}/" for name in ("fanin", "experiments", "analysis"))


def count_calls(function: Callable[[], Any]) -> int:
    """Call a function, and return how often code of this repository calls any function.

    Calls within libraries are not counted, so the number does not depend on their versions. Unlike
    a time, it does not depend on the machine and its load either.
    """
    counts: Counter[int] = Counter()  # by thread, because `+= 1` of two threads is not atomic

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            caller = frame.f_back
            counted = _is_ours(frame) or (caller is not None and _is_ours(caller))
        else:
            counted = event == "c_call" and _is_ours(frame)
        if counted:
            counts[threading.get_ident()] += 1

    gc.collect()
    gc.disable()  # finalizers would run at random times
    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
        gc.enable()
    return sum(counts.values())


def _is_ours(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(PACKAGES)
