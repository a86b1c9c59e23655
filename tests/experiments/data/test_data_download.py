"""A missing file is downloaded once, from the first mirror with a valid file."""

from __future__ import annotations

import gzip
import multiprocessing
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from experiments.data.fetch import FileSet, read
from fanin.errors import DataError

SLOW_TRANSFER = 0.5
"""Seconds; long enough for a second process to start while the first one downloads."""


class Host(ThreadingHTTPServer):
    """HTTP server of the files under folders `good`, `corrupt`, `truncated` and `absent`."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.contents = contents
        self.requests: list[str] = []
        self.delay = 0.0

    def mirror(self, folder: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{folder}"


class Handler(BaseHTTPRequestHandler):
    server: Host

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        time.sleep(self.server.delay)
        _, folder, name = self.path.split("/")
        content = self.server.contents.get(name.removesuffix(".gz"))
        if folder == "absent" or content is None:
            self.send_error(404, "Not Found")
            return
        body = gzip.compress(content[:-1] + b"!" if folder == "corrupt" else content)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if folder == "truncated" else body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def host(tiny_mnist: dict[str, bytes]) -> Iterator[Host]:
    with Host(tiny_mnist) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_next_mirror_is_used_after_a_missing_or_damaged_file(
    host: Host, tiny_mnist: dict[str, bytes], tiny_files: FileSet, tmp_path: Path
) -> None:
    mirrors = tuple(host.mirror(kind) for kind in ("absent", "corrupt", "truncated", "good"))
    files = replace(tiny_files, mirrors=mirrors)
    assert read(files, tmp_path, download=True) == tiny_mnist
    assert len(host.requests) == 4 * len(tiny_mnist)
    files_on_disk = {path.name for path in (tmp_path / "tiny").iterdir() if path.suffix != ".lock"}
    assert files_on_disk == set(tiny_mnist)


def test_existing_files_are_not_downloaded_again(
    host: Host, tiny_mnist: dict[str, bytes], tiny_files: FileSet, tmp_path: Path
) -> None:
    files = replace(tiny_files, mirrors=(host.mirror("good"),))
    read(files, tmp_path, download=True)
    host.requests.clear()
    assert read(files, tmp_path, download=True) == tiny_mnist
    assert host.requests == []


def test_the_error_gives_the_reason_for_each_mirror(
    host: Host, tiny_files: FileSet, tmp_path: Path
) -> None:
    mirrors = (
        host.mirror("absent"),
        host.mirror("corrupt"),
        "http://127.0.0.1:1/connection-refused",
    )
    name, expected = next(iter(tiny_files.sha256.items()))
    with pytest.raises(DataError) as caught:
        read(replace(tiny_files, mirrors=mirrors), tmp_path, download=True)
    lines = str(caught.value).splitlines()
    urls = [f"{mirror}/{name}.gz:" for mirror in mirrors]
    absent, corrupt, refused = (lines.index(url) + 1 for url in urls)
    assert "404" in lines[absent]
    assert lines[corrupt] == f"  expected SHA-256 {expected}"
    assert "found" in lines[corrupt + 1]
    assert "Connection refused" in lines[refused]
    assert not (tmp_path / "tiny" / name).exists()


def test_nothing_is_downloaded_if_downloads_are_disabled(
    host: Host, tiny_files: FileSet, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"data\.download=false"):
        read(replace(tiny_files, mirrors=(host.mirror("good"),)), tmp_path, download=False)
    assert host.requests == []


def test_the_error_names_a_root_that_cannot_be_created(tiny_files: FileSet, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"can't write .*Not a directory(.|\n)*data\.root"):
        read(tiny_files, tmp_path / "file", download=True)


def read_after(files: FileSet, root: Path, start: Barrier) -> None:
    start.wait()
    read(files, root, download=True)


def test_concurrent_processes_download_once(
    host: Host, tiny_mnist: dict[str, bytes], tiny_files: FileSet, tmp_path: Path
) -> None:
    host.delay = SLOW_TRANSFER
    files = replace(tiny_files, mirrors=(host.mirror("good"),))
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Barrier(2)
    readers = [spawn.Process(target=read_after, args=(files, tmp_path, start)) for _ in "ab"]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert [reader.exitcode for reader in readers] == [0, 0]
    assert sorted(host.requests) == sorted(f"/good/{name}.gz" for name in tiny_mnist)
