"""Imported once by the server that forks workers: loads what they need, and dies with its launcher.

Workers are forked from a process that has loaded the code when the sweep was launched. So one that
replaces a dead one is there at once, and runs what was launched, whatever was edited meanwhile.
"""

from __future__ import annotations

import importlib
import sys

from experiments.sweep.provenance import code_version
from experiments.sweep.worker.limits import die_with_parent

NEEDED = (
    "experiments.sweep.worker.worker",
    "experiments.sweep.cli",
    "hydra.main",
    "pebble.pool.process",
)

for name in NEEDED:
    importlib.import_module(name)
code_version()
# It would stay as long as a worker does, and workers as long as it: neither may outlive a launcher.
if sys.platform == "linux":
    die_with_parent()
