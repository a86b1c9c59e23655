"""Default folder of the data files; importing this module loads no torch."""

from __future__ import annotations

import os
from pathlib import Path

DATA = "FANIN_DATA"  # environment variable
CACHE = "~/.cache/fanin"


def default_root() -> str:
    """Return the folder that `FANIN_DATA` names, or `~/.cache/fanin` if it is not set."""
    return os.environ.get(DATA) or CACHE


def data_folder(root: str | None) -> Path:
    """Return the path of `data.root`; None is the default."""
    return Path(root or default_root()).expanduser()
