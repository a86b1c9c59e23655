"""Preloading of the fork server: import the workers' modules, and end with the launcher.

Workers are forked from a process that imported the code when the sweep was launched. So a worker
that replaces a dead one starts at once and runs the launched code, even if files have been edited.
"""

from __future__ import annotations

import importlib

from experiments.gc_pause import without_gc
from experiments.sweep.provenance import code_version
from experiments.sweep.worker.parent_death import die_with_parent

MODULES = (
    "experiments.sweep.worker.worker",
    "pebble.pool.process",
    "pandas",  # pyarrow imports it when it first converts a list
)

# At once, so that a command that is refused leaves no process behind. Without it the fork server
# and its workers would keep each other alive after the launcher's end.
die_with_parent()
with without_gc(freeze=True):
    for name in MODULES:
        importlib.import_module(name)
code_version()
