"""Parts of one table of a sweep, for tests."""

from __future__ import annotations

import pyarrow as pa

from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.tables import read_tables


def read_parts(folder: SweepFolder, name: str) -> list[tuple[str, pa.Table]]:
    """Return the sound parts of a table, with their stems."""
    return list(read_tables(folder, (name,))[0][name].items())
