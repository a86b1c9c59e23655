"""Data files are copied to a node's own disk once, whole, and anew where they have changed."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from experiments.data.fetch import OFFLINE, STAGE, FileSet, read, staged
from fanin.errors import DataError

SIZE = 8 << 20  # bytes: a copy takes long enough for others to come upon it
PROCESSES = multiprocessing.get_context("fork")


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on this node's own disk, that is named as such."""
    folder = tmp_path / "disk"
    monkeypatch.setenv(STAGE, str(folder))
    return folder


def test_without_a_stage_a_file_is_read_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(STAGE, raising=False)
    assert staged(tmp_path / "file") == tmp_path / "file"


def test_of_several_processes_one_copies(
    tmp_path: Path, stage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, calls = tmp_path / "file", tmp_path / "calls"
    source.write_bytes(os.urandom(SIZE))
    copy_file, together, found = shutil.copyfile, PROCESSES.Barrier(6), PROCESSES.Queue()

    def noted(source: Path, copy: Path) -> Path:
        with calls.open("a") as file:
            file.write("copied\n")
        return copy_file(source, copy)

    def stages() -> None:
        together.wait()
        copy = staged(source)
        found.put((copy, copy.read_bytes() == source.read_bytes()))

    monkeypatch.setattr(shutil, "copyfile", noted)
    processes = [PROCESSES.Process(target=stages) for _ in range(together.parties)]
    for process in processes:
        process.start()
    copies = {found.get(timeout=60) for _ in processes}
    ((copy, whole),) = copies
    assert whole
    assert copy.is_relative_to(stage)
    assert calls.read_text() == "copied\n"


def test_a_copy_whose_maker_was_killed_is_made_anew(
    tmp_path: Path, stage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "file"
    source.write_bytes(os.urandom(SIZE))

    def dies(source: Path, copy: Path) -> None:
        copy.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfile", dies)
        process = PROCESSES.Process(target=staged, args=[source])
        process.start()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert staged(source).read_bytes() == source.read_bytes()


def test_a_changed_file_is_copied_anew(tmp_path: Path, stage: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"before")
    before = staged(source)
    assert staged(source) == before
    source.write_bytes(b"after.")  # as long as it was
    os.utime(source, ns=(1, 1))
    after = staged(source)
    assert (after.name, after.read_bytes()) == ("file", b"after.")
    assert before.read_bytes() == b"before"  # for who still reads it


def test_a_stage_that_cannot_be_written_is_named(tmp_path: Path, stage: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"content")
    stage.write_bytes(b"")  # no folder: a place that root can't write to either
    with pytest.raises(DataError, match=rf"{stage}/.*set runner.stage_data to a folder"):
        staged(source)


def test_a_data_set_is_read_from_its_copy(
    tmp_path: Path, stage: Path, tiny_files: FileSet, tiny_mnist: dict[str, bytes]
) -> None:
    root = tmp_path / "root"
    (root / "tiny").mkdir(parents=True)
    for name, content in tiny_mnist.items():
        (root / "tiny" / name).write_bytes(content)
    assert read(tiny_files, root, download=False) == tiny_mnist
    assert sorted(p.name for p in stage.rglob("*-ubyte")) == sorted(tiny_mnist)
    # A copy that has been damaged since is noticed, as a damaged file is.
    copy = next(stage.rglob("train-images*"))
    copy.write_bytes(b"damaged")
    with pytest.raises(DataError, match=f"{copy} is damaged"):
        read(tiny_files, root, download=False)


def test_offline_nothing_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Mirror(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        mirror = f"http://127.0.0.1:{server.server_port}"
        files = FileSet(folders=("tiny",), sha256={"file": "0" * 64}, mirrors=(mirror,))
        monkeypatch.setenv(OFFLINE, "1")
        with pytest.raises(DataError, match="found no file"):
            read(files, tmp_path, download=True)
        assert asked == []
        monkeypatch.delenv(OFFLINE)
        with pytest.raises(DataError, match="could not download"):
            read(files, tmp_path, download=True)
        assert asked
        server.shutdown()
