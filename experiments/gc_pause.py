"""Blocks of code without garbage collection."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_gc(freeze: bool = False) -> Iterator[None]:
    """Pause the garbage collector in code that creates many objects and hardly any garbage.

    The collector visits all objects again and again while their number grows. That takes a seventh
    of the time to import torch, and half of the time to read a large JSON file.

    Parameters
    ----------
    freeze
        Have the collector never visit the objects that exist at the end of the block, for imported
        modules.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if freeze:
            gc.freeze()
        if was_enabled:
            gc.enable()
