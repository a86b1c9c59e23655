"""A damaged checkpoint file or a full disk does not stop the cell."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import make_dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parts import CPU, bits, recorded_steps, run_in_parts, small_overrides, stopping_checkpointer

from experiments.cell import run_cell
from experiments.training import checkpoint
from experiments.training.checkpoint import CellCheckpoint, Checkpointer, Stopped, saved_progress

pytestmark = pytest.mark.usefixtures("worker_settings")
FEW = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def config(cell_config):
    return cell_config(*small_overrides("model=mlp", "model.width=8", "probe.draws=1"))


@pytest.fixture(scope="module")
def uninterrupted(config) -> str:
    return bits(run_cell(config, CPU))


@pytest.fixture(scope="module")
def content(config, tmp_path_factory) -> bytes:
    """Return the checkpoint file of a cell that was stopped after nine steps."""
    path = tmp_path_factory.mktemp("cell") / "checkpoint"
    run_until_stopped(config, stopping_checkpointer(path, 10))
    return path.read_bytes()


def run_until_stopped(config, checkpointer: Checkpointer) -> None:
    with pytest.raises(Stopped):
        run_cell(config, CPU, checkpointer=checkpointer)


def assert_runs_from_the_start(config, checkpointer: Checkpointer, uninterrupted: str) -> None:
    with recorded_steps() as steps:
        result = run_cell(config, CPU, checkpointer=checkpointer)
    assert bits(result) == uninterrupted
    assert steps == list(range(24))


def test_a_checkpoint_is_used(config, uninterrupted, content, tmp_path):
    (tmp_path / "checkpoint").write_bytes(content)
    assert saved_progress(tmp_path / "checkpoint") == (9, 1)
    with recorded_steps() as steps:
        result = run_cell(config, CPU, checkpointer=Checkpointer(tmp_path / "checkpoint"))
    assert bits(result) == uninterrupted
    assert steps == list(range(9, 24))


# --- the file ---------------------------------------------------------------------------------


def read(data: bytes, folder: Path) -> tuple[CellCheckpoint | None, str | None]:
    checkpointer = Checkpointer(folder / "checkpoint")
    checkpointer.path.write_bytes(data)
    return checkpointer.load({}), checkpointer.load_error


@FEW
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_ignored(content, tmp_path, share):
    checkpoint, error = read(content[: int(share * len(content))], tmp_path)
    assert checkpoint is None
    assert error.startswith("damaged")


@FEW
@given(place=st.integers(0, 10**9), bit=st.integers(0, 7))
def test_a_file_with_one_flipped_bit_is_ignored(config, content, tmp_path, place, bit):
    damaged = bytearray(content)
    damaged[place % len(content)] ^= 1 << bit
    checkpoint, error = read(bytes(damaged), tmp_path)
    assert checkpoint is None
    assert error is not None


@FEW
@given(noise=st.binary(max_size=200))
def test_a_file_of_random_bytes_is_ignored(tmp_path, noise):
    for data in (noise, b"[" * 100_000 + noise, b"{}\n" + noise, b"\0" * 10_000):
        checkpoint, error = read(data, tmp_path)
        assert (checkpoint, error) == (None, "damaged, or not a checkpoint")
        assert saved_progress(tmp_path / "checkpoint") == (0, 0)


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_cell_with_a_truncated_checkpoint_runs_from_the_start(
    config, uninterrupted, content, tmp_path, share
):
    checkpointer = Checkpointer(tmp_path / "checkpoint")
    checkpointer.path.write_bytes(content[: int(share * len(content))])
    assert_runs_from_the_start(config, checkpointer, uninterrupted)
    assert checkpointer.load_error.startswith("damaged")


def test_a_checkpoint_of_another_cell_is_ignored(config, cell_config, content, tmp_path):
    path = tmp_path / "checkpoint"
    path.write_bytes(content)
    checkpointer, other = Checkpointer(path), config | {"seed": 5}
    assert bits(run_cell(other, CPU, checkpointer=checkpointer)) == bits(run_cell(other, CPU))
    assert checkpointer.load_error == "saved with another config"


def test_a_checkpoint_of_another_code_version_is_ignored(config, uninterrupted, content, tmp_path):
    checkpointer = Checkpointer(tmp_path / "checkpoint", code="other")
    checkpointer.path.write_bytes(content)
    assert_runs_from_the_start(config, checkpointer, uninterrupted)
    assert checkpointer.load_error == "saved with another code"


def test_a_checkpoint_with_other_objects_is_ignored(tmp_path):
    checkpointer = Checkpointer(tmp_path / "checkpoint")
    checkpointer.load({})
    checkpointer.save(CellCheckpoint(draws={0: {"layers": Path("an object that may run code")}}))
    assert checkpointer.save_error is None
    assert checkpointer.load({}) is None
    assert checkpointer.load_error.startswith("contains more than tensors and plain data")


def test_a_folder_at_the_checkpoint_path_does_not_stop_the_cell(config, uninterrupted, tmp_path):
    checkpointer = Checkpointer(tmp_path / "checkpoint", every=0)
    checkpointer.path.mkdir()
    assert_runs_from_the_start(config, checkpointer, uninterrupted)
    assert checkpointer.load_error == "can't be read (Is a directory)"
    assert checkpointer.save_error == f"{checkpointer.path}: can't be written (Is a directory)"
    checkpointer.delete()
    assert checkpointer.save_error == f"{checkpointer.path}: can't be deleted (Is a directory)"
    assert list(tmp_path.iterdir()) == [checkpointer.path]


def test_delete_removes_the_file_and_temporary_files(config, tmp_path):
    checkpointer = Checkpointer(tmp_path / "folder" / "checkpoint", every=0)
    run_cell(config, CPU, checkpointer=checkpointer)
    for name in (".checkpoint.123.part", ".checkpoint2.123.part"):  # of a killed process
        (checkpointer.path.parent / name).touch()
    checkpointer.delete()
    assert [path.name for path in checkpointer.path.parent.iterdir()] == [".checkpoint2.123.part"]
    checkpointer.delete()
    assert checkpointer.save_error is None


# --- the disk ---------------------------------------------------------------------------------


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder that cannot be written: on a full disk as root, read-only otherwise."""
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


def test_a_full_disk_does_not_stop_the_cell(config, uninterrupted, full_disk):
    checkpointer = Checkpointer(full_disk / "checkpoint", every=0)
    assert_runs_from_the_start(config, checkpointer, uninterrupted)
    assert "can't be written" in checkpointer.save_error
    assert not checkpointer.path.exists()


def test_a_cell_can_be_stopped_on_a_full_disk(config, full_disk):
    checkpointer = stopping_checkpointer(full_disk / "checkpoint", 10)
    with recorded_steps() as steps:
        run_until_stopped(config, checkpointer)
    assert steps == list(range(9))
    assert "can't be written" in checkpointer.save_error


def test_a_checkpoint_from_before_the_disk_was_full_is_used(config, uninterrupted, full_disk):
    if os.getuid() == 0:
        os.truncate(full_disk / "filler", 0)
    else:
        full_disk.chmod(0o700)
    path = full_disk / "checkpoint"
    run_until_stopped(config, stopping_checkpointer(path, 10))
    if os.getuid() == 0:
        with (full_disk / "filler").open("wb") as filler:
            subprocess.run(["dd", "if=/dev/zero", "bs=4096"], stdout=filler, capture_output=False)
    else:
        full_disk.chmod(0o500)
    run_until_stopped(config, stopping_checkpointer(path, 5))
    with recorded_steps() as steps:
        assert bits(run_in_parts(config, path, [])) == uninterrupted
    assert steps == list(range(9, 24))


def test_the_progress_of_another_versions_checkpoint_is_zero(content, tmp_path, monkeypatch):
    (tmp_path / "checkpoint").write_bytes(content)
    monkeypatch.setattr(checkpoint, "CellCheckpoint", make_dataclass("Other", ["steps"]))
    assert saved_progress(tmp_path / "checkpoint") == (0, 0)
