"""Whatever has become of the file or the disk, the cell runs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parts import CPU, bits, in_parts, steps_counted, stopping, words

from experiments.cell import run_cell
from experiments.training.checkpoint import CellCheckpoint, Checkpointer, Stopped, saved_progress

pytestmark = pytest.mark.usefixtures("as_in_workers")
FEW = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def config(cell_config):
    return cell_config(*words("model=mlp", "model.width=8", "probe.draws=1"))


@pytest.fixture(scope="module")
def whole(config) -> str:
    return bits(run_cell(config, CPU))


@pytest.fixture(scope="module")
def content(config, tmp_path_factory) -> bytes:
    """What a cell keeps that was stopped after nine of its steps."""
    path = tmp_path_factory.mktemp("kept") / "kept"
    stopped(config, stopping(path, 10))
    return path.read_bytes()


def stopped(config, checkpointer: Checkpointer) -> None:
    with pytest.raises(Stopped):
        run_cell(config, CPU, checkpointer=checkpointer)


def starts_over(config, checkpointer: Checkpointer, whole: str) -> None:
    with steps_counted() as taken:
        result = run_cell(config, CPU, checkpointer=checkpointer)
    assert bits(result) == whole
    assert taken == list(range(24))


def test_what_was_kept_is_used(config, whole, content, tmp_path):
    (tmp_path / "kept").write_bytes(content)
    assert saved_progress(tmp_path / "kept") == (9, 1)
    with steps_counted() as taken:
        result = run_cell(config, CPU, checkpointer=Checkpointer(tmp_path / "kept"))
    assert bits(result) == whole
    assert taken == list(range(9, 24))


# --- the file ---------------------------------------------------------------------------------


def read(data: bytes, folder: Path) -> tuple[CellCheckpoint | None, str | None]:
    checkpointer = Checkpointer(folder / "kept")
    checkpointer.path.write_bytes(data)
    return checkpointer.load({}), checkpointer.load_error


@FEW
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_torn_file_is_ignored(content, tmp_path, share):
    kept, why = read(content[: int(share * len(content))], tmp_path)
    assert kept is None
    assert why.startswith("it is torn")


@FEW
@given(place=st.integers(0, 10**9), bit=st.integers(0, 7))
def test_a_file_with_one_wrong_bit_is_ignored(config, content, tmp_path, place, bit):
    spoilt = bytearray(content)
    spoilt[place % len(content)] ^= 1 << bit
    kept, why = read(bytes(spoilt), tmp_path)
    assert kept is None
    assert why is not None


@FEW
@given(noise=st.binary(max_size=200))
def test_noise_is_ignored(tmp_path, noise):
    for data in (noise, b"[" * 100_000 + noise, b"{}\n" + noise, b"\0" * 10_000):
        kept, why = read(data, tmp_path)
        assert (kept, why) == (None, "it is torn, or no checkpoint")
        assert saved_progress(tmp_path / "kept") == (0, 0)


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_cell_whose_file_is_torn_starts_over(config, whole, content, tmp_path, share):
    checkpointer = Checkpointer(tmp_path / "kept")
    checkpointer.path.write_bytes(content[: int(share * len(content))])
    starts_over(config, checkpointer, whole)
    assert checkpointer.load_error.startswith("it is torn")


def test_another_cell_s_file_is_ignored(config, cell_config, content, tmp_path):
    path = tmp_path / "kept"
    path.write_bytes(content)
    checkpointer, other = Checkpointer(path), config | {"seed": 5}
    assert bits(run_cell(other, CPU, checkpointer=checkpointer)) == bits(run_cell(other, CPU))
    assert checkpointer.load_error == "it was written for something else (config)"


def test_what_other_code_has_kept_is_ignored(config, whole, content, tmp_path):
    checkpointer = Checkpointer(tmp_path / "kept", code="other")
    checkpointer.path.write_bytes(content)
    starts_over(config, checkpointer, whole)
    assert checkpointer.load_error == "it was written for something else (code)"


def test_what_can_t_be_loaded_as_plain_data_is_ignored(tmp_path):
    checkpointer = Checkpointer(tmp_path / "kept")
    checkpointer.load({})
    checkpointer.save(CellCheckpoint(draws={0: {"layers": Path("of a kind that can run code")}}))
    assert checkpointer.save_error is None
    assert checkpointer.load({}) is None
    assert checkpointer.load_error.startswith("it holds more than tensors and plain data")


def test_a_folder_in_its_place_is_no_error(config, whole, tmp_path):
    checkpointer = Checkpointer(tmp_path / "kept", every=0)
    checkpointer.path.mkdir()
    starts_over(config, checkpointer, whole)
    assert checkpointer.load_error == "it can't be read (Is a directory)"
    assert checkpointer.save_error == f"{checkpointer.path}: can't be written (Is a directory)"
    checkpointer.delete()
    assert checkpointer.save_error == f"{checkpointer.path}: can't be deleted (Is a directory)"
    assert list(tmp_path.iterdir()) == [checkpointer.path]


def test_done_leaves_nothing(config, tmp_path):
    checkpointer = Checkpointer(tmp_path / "folder" / "kept", every=0)
    run_cell(config, CPU, checkpointer=checkpointer)
    for name in (".kept.123.part", ".kept2.123.part"):  # of a process that was killed
        (checkpointer.path.parent / name).touch()
    checkpointer.delete()
    assert [path.name for path in checkpointer.path.parent.iterdir()] == [".kept2.123.part"]
    checkpointer.delete()
    assert checkpointer.save_error is None


# --- the disk ---------------------------------------------------------------------------------


@pytest.fixture
def no_room(tmp_path: Path) -> Iterator[Path]:
    """A folder that takes nothing more: its disk is full, or, but for root, it is read-only."""
    path = tmp_path / "disk"
    path.mkdir()
    if os.getuid() != 0:
        path.chmod(0o500)
        yield path
        path.chmod(0o700)
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(path)], check=True)
    subprocess.run(["dd", "if=/dev/zero", f"of={path / 'filler'}", "bs=4096"], capture_output=True)
    assert os.statvfs(path).f_bavail == 0
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_a_cell_that_can_t_be_kept_trains_on(config, whole, no_room):
    checkpointer = Checkpointer(no_room / "kept", every=0)
    starts_over(config, checkpointer, whole)
    assert "can't be written" in checkpointer.save_error
    assert not checkpointer.path.exists()


def test_a_cell_that_can_t_be_kept_stops_all_the_same(config, no_room):
    checkpointer = stopping(no_room / "kept", 10)
    with steps_counted() as taken:
        stopped(config, checkpointer)
    assert taken == list(range(9))
    assert "can't be written" in checkpointer.save_error


def test_what_was_kept_before_the_disk_filled_still_counts(config, whole, no_room):
    if os.getuid() == 0:
        os.truncate(no_room / "filler", 0)
    else:
        no_room.chmod(0o700)
    path = no_room / "kept"
    stopped(config, stopping(path, 10))
    if os.getuid() == 0:
        with (no_room / "filler").open("wb") as filler:
            subprocess.run(["dd", "if=/dev/zero", "bs=4096"], stdout=filler, capture_output=False)
    else:
        no_room.chmod(0o500)
    stopped(config, stopping(path, 5))
    with steps_counted() as taken:
        assert bits(in_parts(config, path, [])) == whole
    assert taken == list(range(9, 24))
