"""Data files are copied to a node's local disk once, atomically, and again after a change."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from experiments.data.fetch import OFFLINE, FileSet, read
from experiments.data.staging import STAGE, staged
from fanin.errors import DataError

SIZE = 8 << 20  # bytes; large enough for concurrent copies to overlap
PROCESSES = multiprocessing.get_context("fork")


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set `FANIN_STAGE` to a folder and return it."""
    folder = tmp_path / "disk"
    monkeypatch.setenv(STAGE, str(folder))
    return folder


def test_files_are_not_copied_if_no_folder_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(STAGE, raising=False)
    assert staged(tmp_path / "file") == tmp_path / "file"


def test_concurrent_processes_copy_once(
    tmp_path: Path, stage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, calls = tmp_path / "file", tmp_path / "calls"
    source.write_bytes(os.urandom(SIZE))
    copyfile, barrier, results = shutil.copyfile, PROCESSES.Barrier(6), PROCESSES.Queue()

    def recording_copyfile(source: Path, copy: Path) -> Path:
        with calls.open("a") as file:
            file.write("copied\n")
        return copyfile(source, copy)

    def stage_file() -> None:
        barrier.wait()
        copy = staged(source)
        results.put((copy, copy.read_bytes() == source.read_bytes()))

    monkeypatch.setattr(shutil, "copyfile", recording_copyfile)
    processes = [PROCESSES.Process(target=stage_file) for _ in range(barrier.parties)]
    for process in processes:
        process.start()
    copies = {results.get(timeout=60) for _ in processes}
    ((copy, complete),) = copies
    assert complete
    assert copy.is_relative_to(stage)
    assert calls.read_text() == "copied\n"


def test_a_file_is_copied_again_after_the_copying_process_was_killed(
    tmp_path: Path, stage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "file"
    source.write_bytes(os.urandom(SIZE))

    def killed_copyfile(source: Path, copy: Path) -> None:
        copy.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfile", killed_copyfile)
        process = PROCESSES.Process(target=staged, args=[source])
        process.start()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert staged(source).read_bytes() == source.read_bytes()


def test_a_changed_file_is_copied_again(tmp_path: Path, stage: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"before")
    before = staged(source)
    assert staged(source) == before
    source.write_bytes(b"after.")  # of the same length
    os.utime(source, ns=(1, 1))
    after = staged(source)
    assert (after.name, after.read_bytes()) == ("file", b"after.")
    assert before.read_bytes() == b"before"  # other processes may still read it


def test_the_error_names_a_folder_that_cannot_be_written(tmp_path: Path, stage: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"content")
    stage.write_bytes(b"")  # a file instead of a folder, which root can't write to either
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
    # A damaged copy is detected.
    copy = next(stage.rglob("train-images*"))
    copy.write_bytes(b"damaged")
    with pytest.raises(DataError, match=f"{copy} is damaged"):
        read(tiny_files, root, download=False)


def test_nothing_is_downloaded_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[str] = []

    class Mirror(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        mirror = f"http://127.0.0.1:{server.server_port}"
        files = FileSet(folders=("tiny",), sha256={"file": "0" * 64}, mirrors=(mirror,))
        monkeypatch.setenv(OFFLINE, "1")
        with pytest.raises(DataError, match="there is no file"):
            read(files, tmp_path, download=True)
        assert requests == []
        monkeypatch.delenv(OFFLINE)
        with pytest.raises(DataError, match="could not download"):
            read(files, tmp_path, download=True)
        assert requests
        server.shutdown()
