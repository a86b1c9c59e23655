"""Who reads while others write and merge finds each cell once, with all of its rows."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from stored_packs import LAYERS, loaded, result, store

from experiments.compact import merge_packs
from experiments.sweep.store.format_version import write_format
from experiments.sweep.store.lock import acquire_sweep_lock
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.scan import FileVanished, retry_on_race
from experiments.sweep.store.tables import read_states

PACKS = 60


def _write_and_merge(folder: SweepFolder) -> None:
    """Packs of two cells each, the first of which is tried again in the next; all merged often."""
    with acquire_sweep_lock(folder):
        for number in range(PACKS):
            again = [result(f"{number - 1}-a", 2)] if number else []
            cells = [result(f"{number}-{letter}") for letter in "ab"]
            store(folder, f"{number:03}", *again, *cells)
            if number % 3 == 2:
                merge_packs(folder)


def test_reading_while_packs_are_written_and_merged(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path / "s")
    folder.root.mkdir()
    folder.plan.touch()
    write_format(folder)
    writer = multiprocessing.get_context("fork").Process(target=_write_and_merge, args=(folder,))
    writer.start()
    before: set[str] = set()
    earlier: set[str] = set()
    ended = False
    while not ended:
        ended = not writer.is_alive()  # then one more look
        found = loaded(folder)  # and nothing is passed over as a fault
        if found.cells.empty:
            continue
        cells = set(found.cells.cell_id)
        assert len(found.cells) == len(cells)
        assert cells >= before, "what was there once stays there"
        before = cells
        assert set(found.layers.groupby("cell_id", observed=True).size()) == {LAYERS}
        attempts = found.cells.set_index("cell_id").attempt
        curves = found.curves.set_index("cell_id").value
        assert (curves.sort_index() == attempts.astype(float).sort_index()).all()
        seen = set(read_states(folder))  # with those in journals
        assert seen >= cells | earlier
        earlier = seen
    writer.join()
    assert writer.exitcode == 0
    assert cells == {f"{number}-{letter}" for number in range(PACKS) for letter in "ab"}


def test_a_file_that_never_stays_ends_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.sweep.store.scan.PAUSE", 0.0)

    def gone() -> None:
        raise FileVanished("results/s/cells/a.parquet")

    with pytest.raises(Exception, match=r"a\.parquet: gone whenever it is to be read"):
        retry_on_race(gone)
