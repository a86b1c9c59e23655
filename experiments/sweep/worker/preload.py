"""Preloading of the fork server: import the workers' modules, and end with the launcher.

Workers are forked from a process that imported the code when the sweep was launched. So a worker
that replaces a dead one starts at once and runs the launched code, even if files have been edited.
"""

from __future__ import annotations

import importlib
import sys

from experiments.sweep.provenance import code_version
from experiments.sweep.worker.limits import die_with_parent

MODULES = (
    "experiments.sweep.worker.worker",
    "experiments.sweep.cli",
    "hydra.main",
    "pebble.pool.process",
)

for name in MODULES:
    importlib.import_module(name)
code_version()
# Otherwise the fork server and its workers would keep each other alive after the launcher's end.
if sys.platform == "linux":
    die_with_parent()
