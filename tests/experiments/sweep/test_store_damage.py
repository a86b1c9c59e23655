"""Damaged and foreign files: damage costs only its pack, a foreign file nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_packs import contents, loaded, result, store

from analysis import load
from experiments.sweep.store.parquet import write_part
from experiments.sweep.store.paths import TABLES, SweepFolder
from experiments.sweep.store.scan import quarantine
from experiments.sweep.store.tables import read_states
from fanin.errors import FaninError, FaninWarning


def noise(data: bytes) -> bytes:
    """Change the middle third of the content."""
    third = len(data) // 3
    return data[:third] + bytes(255 - byte for byte in data[third:-third]) + data[-third:]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "zero-length": lambda data: b"",
    "noise": noise,
    "another file": lambda data: b"Tuesday",
}


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    folder = SweepFolder(tmp_path / "s")
    store(folder, "a", result("x"), result("y"))
    store(folder, "b", result("z"))
    return folder


def part(folder: SweepFolder, table: str, stem: str = "a") -> Path:
    return folder.table(table) / f"{stem}.parquet"


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_load_names_a_damaged_part_and_reads_other_packs(
    folder: SweepFolder, table: str, damage: str
) -> None:
    path = part(folder, table)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.warns(FaninWarning) as warned:
        results = load("s", folder.root.parent)
    assert len(warned) == 1
    assert str(path) in str(warned[0].message)
    assert [set(getattr(results, name)["cell_id"]) for name in TABLES] == [{"z"}] * len(TABLES)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_quarantine_moves_a_damaged_pack(folder: SweepFolder, table: str, damage: str) -> None:
    before = contents(loaded(folder))
    path = part(folder, table)
    bad = DAMAGES[damage](path.read_bytes())
    path.write_bytes(bad)
    (problem,) = quarantine(folder)
    assert problem.path == path
    assert "quarantine" in str(problem)
    assert {p.parent.name for p in folder.quarantine.rglob("a.parquet")} == set(TABLES)
    assert (folder.quarantine / table / "a.parquet").read_bytes() == bad
    assert set(read_states(folder)) == set(loaded(folder).cells.cell_id) == {"z"}
    assert quarantine(folder) == []
    store(folder, "c", result("x"), result("y"))  # they ran again
    assert contents(loaded(folder)) == before


@pytest.mark.parametrize("table", ["layers", "histograms", "tensors", "curves"])
def test_missing_part_damages_its_pack(folder: SweepFolder, table: str) -> None:
    part(folder, table).unlink()
    (problem,) = quarantine(folder)
    assert problem.path == part(folder, table)
    assert "missing" in problem.reason
    assert set(read_states(folder)) == {"z"}


@settings(deadline=None, max_examples=60)
@given(table=st.sampled_from(TABLES), place=st.integers(0), change=st.integers(1, 255))
def test_every_changed_byte_is_detected(
    tmp_path_factory: pytest.TempPathFactory, table: str, place: int, change: int
) -> None:
    folder = SweepFolder(tmp_path_factory.mktemp("d") / "s")
    store(folder, "a", result("x"))
    path = part(folder, table)
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= change
    path.write_bytes(data)
    assert [problem.path for problem in quarantine(folder)] == [path]


def test_quarantine_overwrites_nothing(folder: SweepFolder) -> None:
    for content in (b"first", b"second"):
        part(folder, "layers").write_bytes(content)
        quarantine(folder)
        store(folder, "a", result("x"), result("y"))
    kept = {path.read_bytes() for path in (folder.quarantine / "layers").iterdir()}
    assert kept == {b"first", b"second"}


@pytest.mark.parametrize("table", TABLES)
def test_foreign_files_are_named_and_left_alone(folder: SweepFolder, table: str) -> None:
    before = contents(loaded(folder))
    text, foreign = folder.table(table) / "notes.txt", part(folder, table, "mine")
    text.write_text("Tuesday")
    pq.write_table(pa.table({"cell_id": ["x"], "attempt": [9], "outcome": ["ok"]}), foreign)
    with pytest.warns(FaninWarning) as warned:
        assert contents(load("s", folder.root.parent)) == before
    assert all(str(path) in str(warned[0].message) for path in (text, foreign))
    assert {problem.path for problem in quarantine(folder)} == {text, foreign}
    assert text.exists()
    assert foreign.exists()
    assert set(read_states(folder)) == {"x", "y", "z"}


def test_parts_without_a_manifest_are_read(folder: SweepFolder) -> None:
    before = contents(loaded(folder))
    for table in TABLES:
        path = part(folder, table)
        write_part(folder, table, "a", pq.read_table(path).replace_schema_metadata(None))
    assert contents(loaded(folder)) == before
    assert set(read_states(folder)) == {"x", "y", "z"}
    assert quarantine(folder) == []


def test_half_written_file_is_deleted_silently(folder: SweepFolder) -> None:
    half = folder.table("layers") / ".c.parquet.17.part"
    half.write_bytes(b"PAR1")
    assert set(loaded(folder).cells.cell_id) == {"x", "y", "z"}
    assert quarantine(folder) == []
    assert not half.exists()


def test_half_written_files_of_running_slurm_jobs_are_kept(folder: SweepFolder) -> None:
    half = folder.table("layers") / ".c.parquet.17.part"
    half.write_bytes(b"PAR1")
    lease = folder.journals / "0123456789-0"
    lease.mkdir(parents=True)
    assert quarantine(folder) == []
    assert half.exists()
    lease.rename(lease.with_name(f"{lease.name}.taken"))
    assert quarantine(folder) == []
    assert not half.exists()


@pytest.mark.parametrize("table", TABLES)
def test_a_file_that_cannot_be_read_is_not_moved(folder: SweepFolder, table: str) -> None:
    path, other = part(folder, table), part(folder, table, "b")
    content = path.read_bytes()
    path.unlink()
    path.symlink_to(path)  # reading it fails, as after an error of the file system
    other.write_bytes(b"damaged")
    with pytest.raises(FaninError, match="Nothing was moved"):
        quarantine(folder)
    path.unlink()
    path.write_bytes(content)
    assert other.exists()
    assert [problem.path for problem in quarantine(folder)] == [other]
    assert set(read_states(folder)) == {"x", "y"}
