"""Data files are found in all possible locations and used only if they are the official ones."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments.data import Cifar10, Cifar100, FashionMnist, Mnist
from experiments.data.cifar import CIFAR100_FILES, load_records
from experiments.data.fetch import Archive, FileSet, read
from experiments.data.mnist import load_idx
from fanin.errors import DataError

IMAGES = "train-images-idx3-ubyte"


def write_files(contents: dict[str, bytes], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def tar_gz(contents: dict[str, bytes], path: Path) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"any-folder/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("place", ["tiny", "tiny-other-name", "."])
@pytest.mark.parametrize(("suffix", "compress"), [("", bytes), (".gz", gzip.compress)])
def test_files_are_found_under_the_root_plain_or_compressed(
    place: str,
    suffix: str,
    compress: Callable[[bytes], bytes],
    tiny_mnist: dict[str, bytes],
    tiny_files: FileSet,
    tmp_path: Path,
) -> None:
    write_files({name + suffix: compress(c) for name, c in tiny_mnist.items()}, tmp_path / place)
    assert read(tiny_files, tmp_path, download=False) == tiny_mnist


def test_files_may_be_compressed_differently(
    tiny_mnist: dict[str, bytes], tiny_files: FileSet, tmp_path: Path
) -> None:
    first, second, *rest = tiny_mnist
    write_files({name: tiny_mnist[name] for name in rest}, tmp_path)
    write_files({f"{first}.xz": lzma.compress(tiny_mnist[first])}, tmp_path / "tiny")
    write_files({f"{second}.gz": gzip.compress(tiny_mnist[second])}, tmp_path / "tiny")
    assert read(tiny_files, tmp_path, download=False) == tiny_mnist


def test_files_are_found_in_a_system_folder(
    tiny_mnist: dict[str, bytes], tiny_files: FileSet, tmp_path: Path
) -> None:
    write_files(tiny_mnist, tmp_path / "usr")
    files = replace(tiny_files, system=(str(tmp_path / "usr"),))
    assert read(files, tmp_path / "empty", download=False) == tiny_mnist


def test_idx_files_become_channel_first_tensors(
    tiny_mnist: dict[str, bytes], tiny_files: FileSet, tmp_path: Path
) -> None:
    write_files(tiny_mnist, tmp_path)
    data = load_idx(tiny_files, tmp_path, download=False)
    assert data.train.x.shape == (6, 1, 28, 28)
    assert data.test.x.dtype == torch.uint8
    assert bytes(data.train.x[0].flatten().tolist()) == tiny_mnist[IMAGES][16 : 16 + 784]
    assert data.test.y.tolist() == list(tiny_mnist["t10k-labels-idx1-ubyte"][8:])


def with_flipped_bit(content: bytes) -> bytes:
    return content[:100] + bytes([content[100] ^ 1]) + content[101:]


@pytest.mark.parametrize(
    "damage", [with_flipped_bit, lambda content: content[:-1], lambda content: b""]
)
@pytest.mark.parametrize(("suffix", "compress"), [("", bytes), (".xz", lzma.compress)])
def test_the_error_for_a_damaged_file_names_both_sums_and_a_remedy(
    damage: Callable[[bytes], bytes],
    suffix: str,
    compress: Callable[[bytes], bytes],
    tiny_mnist: dict[str, bytes],
    tiny_files: FileSet,
    tmp_path: Path,
) -> None:
    write_files(tiny_mnist, tmp_path)
    damaged = damage(tiny_mnist[IMAGES])
    (tmp_path / IMAGES).unlink()
    write_files({IMAGES + suffix: compress(damaged)}, tmp_path / "tiny")
    with pytest.raises(DataError) as caught:
        read(tiny_files, tmp_path, download=True)
    message = str(caught.value)
    assert str(tmp_path / "tiny" / (IMAGES + suffix)) in message
    assert f"expected SHA-256 {tiny_files.sha256[IMAGES]}" in message
    assert f"found    SHA-256 {hashlib.sha256(damaged).hexdigest()}" in message
    assert "or set data.root (or FANIN_DATA) to another folder" in message
    assert len(message.splitlines()) <= 4


@pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip.compress), (".xz", lzma.compress)])
@pytest.mark.parametrize("keep", [0.5, 0.01])
def test_a_truncated_file_is_refused_although_a_valid_one_exists_elsewhere(
    suffix: str,
    compress: Callable[[bytes], bytes],
    keep: float,
    tiny_mnist: dict[str, bytes],
    tiny_files: FileSet,
    tmp_path: Path,
) -> None:
    write_files(tiny_mnist, tmp_path)
    content = compress(tiny_mnist[IMAGES])
    write_files({IMAGES + suffix: content[: int(keep * len(content))]}, tmp_path / "tiny")
    with pytest.raises(DataError, match=rf"{IMAGES}\{suffix} is damaged(.|\n)*truncated"):
        read(tiny_files, tmp_path, download=False)


def test_an_uncompressed_file_named_gz_is_refused(
    tiny_mnist: dict[str, bytes], tiny_files: FileSet, tmp_path: Path
) -> None:
    write_files({f"{name}.gz": content for name, content in tiny_mnist.items()}, tmp_path)
    with pytest.raises(DataError, match="Not a gzipped file"):
        read(tiny_files, tmp_path, download=False)


@pytest.mark.parametrize("source", [Mnist(), FashionMnist(), Cifar10(), Cifar100()])
def test_the_error_for_missing_files_names_the_folders_and_a_remedy(
    source: Mnist | FashionMnist | Cifar10 | Cifar100,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Path, "is_file", lambda self: False)  # Debian's package may be installed
    with pytest.raises(DataError) as caught:
        source.load(tmp_path, download=False)
    message = str(caught.value)
    assert f"  {tmp_path}\n" in message
    name = source.files.folders[0]
    assert message.endswith(f"\n  fanin data fetch {name} --root {tmp_path}")
    assert "Set data.root" in message
    assert ("/usr/share/datasets/fashion-mnist" in message) == isinstance(source, FashionMnist)


@pytest.fixture
def tiny_cifar() -> dict[str, bytes]:
    """Return three records with coarse and fine labels in two files."""
    record = bytes(range(256)) * 12
    return {
        "train.bin": bytes([1, 11]) + record + bytes([2, 22]) + record,
        "test.bin": bytes([3, 33]) + record,
    }


def archive_files(contents: dict[str, bytes], md5: str | None = None) -> FileSet:
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    published = dict.fromkeys(contents) if md5 else sums
    return FileSet(("c",), published, mirrors=(), archive=Archive("c.tar.gz", md5))


def test_members_are_read_without_extracting_the_archive(
    tiny_cifar: dict[str, bytes], tmp_path: Path
) -> None:
    tar_gz(tiny_cifar | {"readme.html": b"no data"}, tmp_path / "c.tar.gz")
    assert read(archive_files(tiny_cifar), tmp_path, download=False) == tiny_cifar
    assert [path.name for path in tmp_path.iterdir()] == ["c.tar.gz"]


def test_records_give_fine_labels_and_channel_first_pixels(
    tiny_cifar: dict[str, bytes], tmp_path: Path
) -> None:
    tar_gz(tiny_cifar, tmp_path / "c.tar.gz")
    md5 = hashlib.md5((tmp_path / "c.tar.gz").read_bytes()).hexdigest()
    files = archive_files(tiny_cifar, md5)
    data = load_records(files, tmp_path, download=False, label_bytes=2, n_classes=100)
    assert data.train.y.tolist() == [11, 22]
    assert data.test.y.tolist() == [33]
    # Byte 1024 c + 32 row + column of a record is that channel's pixel; here byte i is i % 256.
    assert data.test.x.shape == (1, 3, 32, 32)
    assert data.test.x[0, 2, 5, 7] == (2048 + 5 * 32 + 7) % 256


def test_separate_files_with_published_sums_are_preferred_to_the_archive(
    tiny_cifar: dict[str, bytes], tmp_path: Path
) -> None:
    write_files(tiny_cifar, tmp_path / "c")
    (tmp_path / "c.tar.gz").write_bytes(b"not even opened")
    assert read(archive_files(tiny_cifar), tmp_path, download=False) == tiny_cifar


@pytest.mark.parametrize("published", ["md5 of the archive", "sums of its members"])
def test_a_changed_archive_is_refused(
    published: str, tiny_cifar: dict[str, bytes], tmp_path: Path
) -> None:
    files = archive_files(tiny_cifar, "0" * 32 if published == "md5 of the archive" else None)
    tar_gz(
        tiny_cifar | {"test.bin": with_flipped_bit(tiny_cifar["test.bin"])}, tmp_path / "c.tar.gz"
    )
    with pytest.raises(DataError, match=r"c\.tar\.gz is damaged(.|\n)*expected(.|\n)*found"):
        read(files, tmp_path, download=False)


def test_an_incomplete_or_truncated_archive_is_refused(
    tiny_cifar: dict[str, bytes], tmp_path: Path
) -> None:
    path = tmp_path / "c.tar.gz"
    tar_gz({"train.bin": tiny_cifar["train.bin"]}, path)
    with pytest.raises(DataError, match=r"the archive has no test\.bin"):
        read(archive_files(tiny_cifar), tmp_path, download=False)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="truncated or corrupted file"):
        read(archive_files(tiny_cifar), tmp_path, download=False)


def test_separate_cifar100_files_are_refused(tiny_cifar: dict[str, bytes], tmp_path: Path) -> None:
    write_files(tiny_cifar, tmp_path / "cifar100")
    with pytest.raises(DataError, match=r"Separate files train\.bin, test\.bin are not used"):
        read(CIFAR100_FILES, tmp_path, download=False)
