"""Reading while packs are written and merged: each cell once, with all of its rows."""

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
    """Write packs of two cells, retry the first cell in the next pack, and merge often."""
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
        ended = not writer.is_alive()  # then read once more
        results = loaded(folder)  # fails if a file is left out
        if results.cells.empty:
            continue
        cells = set(results.cells.cell_id)
        assert len(results.cells) == len(cells)
        assert cells >= before, "loaded cells stay"
        before = cells
        assert set(results.layers.groupby("cell_id", observed=True).size()) == {LAYERS}
        attempts = results.cells.set_index("cell_id").attempt
        curves = results.curves.set_index("cell_id").value
        assert (curves.sort_index() == attempts.astype(float).sort_index()).all()
        seen = set(read_states(folder))  # includes journals
        assert seen >= cells | earlier
        earlier = seen
    writer.join()
    assert writer.exitcode == 0
    assert cells == {f"{number}-{letter}" for number in range(PACKS) for letter in "ab"}


def test_vanishing_files_end_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.sweep.store.scan.PAUSE", 0.0)

    def gone() -> None:
        raise FileVanished("results/s/cells/a.parquet")

    with pytest.raises(Exception, match=r"a\.parquet: the file disappeared between"):
        retry_on_race(gone)
