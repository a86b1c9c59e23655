"""Scan of a sweep's folder: its sound packs, and files that are spoilt or none of ours."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from experiments.atomic_write import writing
from experiments.sweep.store.journal import journals_in
from experiments.sweep.store.parquet import FileDigest, Manifest, decode, part_path, read_manifest
from experiments.sweep.store.paths import DETAIL_TABLES, TABLES, TEMPORARY, SweepFolder
from fanin.errors import FaninError

WORDS = pa.dictionary(pa.int32(), pa.string())
OURS = {"cell_id": WORDS, "attempt": pa.int32(), "outcome": WORDS}  # what all `cells` parts have
TRIES, PAUSE = 20, 0.05  # how often to look again while files come and go, and seconds between

T = TypeVar("T")
Parts = dict[str, pa.Table]
"""Parts of one table by the stem of their files, or of one pack by table."""


@dataclass(frozen=True)
class FileProblem:
    """A file that isn't what it should be, and why; `stem` where it spoils that pack."""

    path: Path
    reason: str
    stem: str | None = None

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class StoredPack:
    """A pack's parts: the read_verified content of `cells`, and the paths of the others by table."""

    stem: str
    cells: bytes
    siblings: dict[str, Path]
    manifest: Manifest | None  # None in parts that are older than manifests


@dataclass(frozen=True)
class Scan:
    """Result of a scan: sound packs by their stems, faults, packs that others replace."""

    packs: dict[str, StoredPack]
    faults: list[FileProblem]
    superseded: frozenset[str]


class _Foreign(ValueError):
    """Sound, but not written by a sweep."""


class FileVanished(Exception):
    """A file went between the listing and the reading of it: packs are being merged."""


def retry_on_race(read: Callable[[], T]) -> T:
    """Read again while files vanish under the reader's hands.

    Raises
    ------
    FaninError
        They don't cease to.
    """
    for _ in range(TRIES):
        try:
            return read()
        except FileVanished as gone:
            last = gone
            time.sleep(PAUSE)
    raise FaninError(f"{last}: gone whenever it is to be read; does somebody clear this folder?")


def scan(folder: SweepFolder) -> Scan:
    """Look through a folder: `cells` parts are read_verified in full, of others only the size.

    Raises
    ------
    FileVanished
        As it says; see `retry_on_race`.
    """
    listed, journals = _list_twice(folder)
    faults = [
        FileProblem(path, "not one of this sweep's tables; left alone")
        for paths in listed.values()
        for path in paths
        if path.suffix != ".parquet"
    ]
    packs: dict[str, StoredPack] = {}
    for stem, path in _parts(listed["cells"]).items():
        try:
            packs[stem] = _open(folder, path, listed)
        except _Foreign as error:
            faults.append(FileProblem(path, str(error)))
        except ValueError as error:
            faults.append(FileProblem(path, str(error), stem))
    for stem, pack in list(packs.items()):
        if wrong := _missing_or_resized(folder, pack):
            faults += wrong
            del packs[stem]
    # What only a spoilt pack supersedes counts again, where it is still there.
    manifests = [pack.manifest for pack in packs.values() if pack.manifest is not None]
    superseded = frozenset(stem for manifest in manifests for stem in manifest.supersedes)
    packs = {stem: pack for stem, pack in packs.items() if stem not in superseded}
    faults = [fault for fault in faults if fault.stem not in superseded]
    known = {*_parts(listed["cells"]), *superseded, *journals}
    for name in DETAIL_TABLES:
        faults += [
            FileProblem(path, "no cells of this sweep go with it; left alone")
            for stem, path in _parts(listed[name]).items()
            if stem not in known
        ]
    return Scan(packs, faults, superseded)


def read_pack(
    folder: SweepFolder,
    pack: StoredPack,
    names: Sequence[str] = TABLES,
    columns: Sequence[str] | None = None,
) -> Parts | FileProblem:
    """Read a pack's parts by table, or say which of them is spoilt."""
    parts: Parts = {}
    for name in names:
        try:
            if name == "cells":
                parts[name] = decode(pack.cells, columns)
            elif name in pack.siblings:
                parts[name] = decode(read_verified(pack, name))
        except (ValueError, OSError) as error:
            return FileProblem(part_path(folder, name, pack.stem), str(error), pack.stem)
    return parts


def read_verified(pack: StoredPack, name: str) -> bytes:
    """Read a pack's other part, which `cells` vouches for.

    Raises
    ------
    ValueError
        It isn't what was written; the message says so.
    FileVanished
        The pack is gone.
    """
    data = read_existing(pack.siblings[name])
    if pack.manifest is not None and FileDigest.of(data) != pack.manifest.parts[name]:
        raise ValueError("its content isn't what was written there (wrong checksum)")
    return data


def read_existing(path: Path) -> bytes:
    """Read a file that was there just now.

    Raises
    ------
    FileVanished
        It no longer is.
    ValueError
        It can't be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise FileVanished(path) from error
    except OSError as error:
        raise ValueError(f"it can't be read ({error.strerror or error})") from error


Listing = dict[str, list[Path]]


def _list_twice(folder: SweepFolder) -> tuple[Listing, set[str]]:
    """List the files of each table, and the stems of packs that are being written.

    A folder that is read while files come and go may show neither a part nor what replaces it: so
    the listing counts when a second one is the same. Of a pack that is just being written, first
    the siblings are listed, then its journal, then `cells`: in the opposite order of their lives.
    """
    before = None
    for _ in range(TRIES):
        listed = {name: _files(folder.table(name)) for name in DETAIL_TABLES}
        # Claims of merges lie beside the journals, those of a cluster's jobs deeper.
        journals = {path.stem for path in _files(folder.journals)}
        journals |= journals_in(folder.journals).keys()
        listed["cells"] = _files(folder.table("cells"))
        if listed == before:
            break
        before = listed
    return listed, journals


def _files(folder: Path) -> list[Path]:
    """List a folder, but for hidden files: those are half written, or somebody else's."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return [folder / name for name in sorted(names) if not name.startswith(".")]


def _parts(paths: list[Path]) -> dict[str, Path]:
    return {path.stem: path for path in paths if path.suffix == ".parquet"}


def _open(folder: SweepFolder, path: Path, listed: Listing) -> StoredPack:
    data = read_existing(path)
    manifest = read_manifest(data)
    if manifest is not None:
        siblings = {name: part_path(folder, name, path.stem) for name in manifest.parts}
        return StoredPack(path.stem, data, siblings, manifest)
    schema = pq.read_schema(pa.BufferReader(data))
    if any(schema.get_field_index(n) < 0 or schema.field(n).type != t for n, t in OURS.items()):
        raise _Foreign("not one of this sweep's tables; left alone")
    there = {name: _parts(listed[name]).get(path.stem) for name in DETAIL_TABLES}
    return StoredPack(path.stem, data, {n: p for n, p in there.items() if p is not None}, None)


def _missing_or_resized(folder: SweepFolder, pack: StoredPack) -> list[FileProblem]:
    faults = []
    for name, expected in pack.manifest.parts.items() if pack.manifest else ():
        path = pack.siblings[name]
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            # Merging removes `cells` first: while that is there, nobody has replaced the pack.
            if not part_path(folder, "cells", pack.stem).exists():
                raise FileVanished(path) from None
            faults.append(FileProblem(path, "it is missing", pack.stem))
        else:
            if size != expected.size:
                reason = f"it has {size} bytes instead of {expected.size}"
                faults.append(FileProblem(path, reason, pack.stem))
    return faults


def quarantine(folder: SweepFolder) -> list[FileProblem]:
    """Verify every part in full, and move all parts of spoilt packs to `quarantine/`.

    Nothing is deleted but what killed processes left half written, and files that are none of the
    sweep's are left alone. To be called under `acquire_sweep_lock`, before it is decided what runs.

    Returns
    -------
    list of FileProblem
        What is wrong with which file, and where it is now.
    """
    _clear(folder)
    faults = retry_on_race(lambda: _faults(folder))
    for stem in dict.fromkeys(fault.stem for fault in faults if fault.stem is not None):
        for name in reversed(TABLES):  # first `cells`, which readers go by
            _set_aside(folder, name, stem)
    return [
        replace(fault, reason=f"{fault.reason}; its pack is now in {folder.quarantine}/")
        if fault.stem is not None
        else fault
        for fault in faults
    ]


def _clear(folder: SweepFolder) -> None:
    """Remove temporary files; `predictions` may be written now, and are analysis's own affair."""
    tables = (folder.table(name) for name in TABLES)
    for where in (folder.root, folder.errors, folder.journals, *tables):
        for path in where.glob(TEMPORARY):
            with writing(path):
                path.unlink(missing_ok=True)


def _faults(folder: SweepFolder) -> list[FileProblem]:
    found = scan(folder)
    read = (read_pack(folder, pack) for pack in found.packs.values())
    return found.faults + [parts for parts in read if isinstance(parts, FileProblem)]


def _set_aside(folder: SweepFolder, name: str, stem: str) -> None:
    path, there = part_path(folder, name, stem), folder.quarantine / name
    with writing(path):
        if not path.exists():
            return
        there.mkdir(parents=True, exist_ok=True)
        names = (f"{stem}{f'.{n}' if n else ''}.parquet" for n in count())
        path.replace(next(there / new for new in names if not (there / new).exists()))
