"""The same cells when nothing befalls them, to compare with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from threading import Lock

import pandas as pd
from faulty import Faulty

from analysis import load
from experiments.sweep.store.paths import TABLES

ONE_AT_A_TIME = Lock()
# What may differ between two runs of the same cell.
OF_THE_RUN = ["seconds", "attempt", "host", "device", "code"]


def undisturbed(faulty: Faulty) -> Path:
    """Where the tables of such cells are that nothing has befallen, made on this machine once."""
    root = faulty.root.with_name("undisturbed")
    with ONE_AT_A_TIME:
        if not root.exists():
            root.mkdir()
            local = replace(faulty, root=root, started=[])
            status, said = local.run("init.number=range(9)", runner=("runner=local",))
            assert status == 0, said
    return root


def tables(root: Path, numbers: list[int] | None = None) -> dict[str, pd.DataFrame]:
    """A sweep's tables of some cells, in a fixed order, without what tells of the run."""
    found = load("s", root)
    cells = found.cells.set_index("cell_id")["init.number"].astype(int)
    kept = set(cells.index if numbers is None else cells.index[cells.isin(numbers)])
    made = {}
    for name in TABLES:
        table = getattr(found, name)
        if table.empty:
            continue
        table = table[table["cell_id"].isin(kept)].drop(columns=OF_THE_RUN, errors="ignore")
        plain = table.astype({c: str for c in table if table[c].dtype == "category"})
        keys = [c for c in plain if plain[c].dtype != float] or list(plain)
        made[name] = plain.sort_values(keys, kind="stable", ignore_index=True)
    return made


def assert_same_tables(one: Path, other: Path, numbers: list[int] | None = None) -> None:
    """The same rows to the last bit."""
    left, right = tables(one, numbers), tables(other, numbers)
    assert left.keys() == right.keys()
    for name in left:
        pd.testing.assert_frame_equal(left[name], right[name], check_exact=True, obj=name)


def steps_of_one(faulty: Faulty) -> int:
    """How many training steps such a cell takes."""
    return replace(faulty, root=undisturbed(faulty)).count("steps", 0)
