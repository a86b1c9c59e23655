"""Helper that reads the part files of a sweep's table."""

from __future__ import annotations

import pyarrow as pa

from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.tables import read_tables


def read_parts(folder: SweepFolder, name: str) -> list[tuple[str, pa.Table]]:
    """Return (stem, table) for all valid parts of a table."""
    return list(read_tables(folder, (name,))[0][name].items())
