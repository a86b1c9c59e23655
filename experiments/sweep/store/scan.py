"""Scan of a sweep's folder: its valid packs, damaged files, and files of other origin."""

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
from experiments.sweep.store.journal import TAKEN_SUFFIX, journals_in
from experiments.sweep.store.parquet import (
    FileDigest,
    Manifest,
    decode,
    part_path,
    read_manifest,
)
from experiments.sweep.store.paths import DETAIL_TABLES, TABLES, TEMPORARY, SweepFolder
from fanin.errors import FaninError

STRINGS = pa.dictionary(pa.int32(), pa.string())
REQUIRED_COLUMNS = {"cell_id": STRINGS, "attempt": pa.int32(), "outcome": STRINGS}  # of `cells`
# Number of attempts, and seconds between two, while other processes add and remove files.
ATTEMPTS, PAUSE = 20, 0.05

T = TypeVar("T")
Parts = dict[str, pa.Table]
"""Parts of one table by the stems of their files, or of one pack by table."""


@dataclass(frozen=True)
class FileProblem:
    """A damaged or foreign result file, and the reason. `stem` names its pack, if it has one.

    If `unreadable` is True, the system could not read the file, which may be intact.
    """

    path: Path
    reason: str
    stem: str | None = None
    unreadable: bool = False

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class StoredPack:
    """A pack's parts: the verified content of `cells`, and the paths of the others by table."""

    stem: str
    cells: bytes
    details: dict[str, Path]
    manifest: Manifest | None  # None for parts that are older than manifests


@dataclass(frozen=True)
class Scan:
    """Result of a scan: valid packs by stem, problems, and packs that others replace."""

    packs: dict[str, StoredPack]
    problems: list[FileProblem]
    superseded: frozenset[str]


class _ForeignFile(ValueError):
    """A valid Parquet file that no sweep wrote."""


class _Unreadable(ValueError):
    """A file that the system cannot read, for example on a network file system."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"can't be read ({error.strerror or error})")


class FileVanished(Exception):
    """A file disappeared between listing and reading, because packs are being merged."""


def retry_on_race(read: Callable[[], T]) -> T:
    """Call `read` again as long as it raises `FileVanished`.

    Raises
    ------
    FaninError
        Files still vanished at the last attempt.
    """
    for _ in range(ATTEMPTS):
        try:
            return read()
        except FileVanished as error:
            last = error
            time.sleep(PAUSE)
    raise FaninError(
        f"{last}: the file disappeared between listing and reading, {ATTEMPTS} times in a row. "
        "Stop the process that deletes files in this folder, then run the same command again."
    )


def scan(folder: SweepFolder) -> Scan:
    """Scan a folder: verify `cells` parts in full, and the sizes of the other parts.

    Raises
    ------
    FileVanished
        A file disappeared after the listing; see `retry_on_race`.
    """
    listed, journals = _stable_listing(folder)
    problems = [
        FileProblem(path, "not a table of this sweep; ignored")
        for paths in listed.values()
        for path in paths
        if path.suffix != ".parquet"
    ]
    packs: dict[str, StoredPack] = {}
    for stem, path in _parts_by_stem(listed["cells"]).items():
        try:
            packs[stem] = _open_pack(folder, path, listed)
        except _ForeignFile as error:
            problems.append(FileProblem(path, str(error)))
        except ValueError as error:
            unreadable = isinstance(error, _Unreadable)
            problems.append(FileProblem(path, str(error), stem, unreadable))
    for stem, pack in list(packs.items()):
        if missing_or_resized := _missing_or_resized(folder, pack):
            problems += missing_or_resized
            del packs[stem]
    # Packs that only a damaged pack supersedes count again, if they still exist.
    manifests = [pack.manifest for pack in packs.values() if pack.manifest is not None]
    superseded = frozenset(stem for manifest in manifests for stem in manifest.supersedes)
    packs = {stem: pack for stem, pack in packs.items() if stem not in superseded}
    problems = [problem for problem in problems if problem.stem not in superseded]
    known = {*_parts_by_stem(listed["cells"]), *superseded, *journals}
    for name in DETAIL_TABLES:
        problems += [
            FileProblem(path, "no matching part in cells/; ignored")
            for stem, path in _parts_by_stem(listed[name]).items()
            if stem not in known
        ]
    return Scan(packs, problems, superseded)


def read_pack(
    folder: SweepFolder,
    pack: StoredPack,
    names: Sequence[str] = TABLES,
    columns: Sequence[str] | None = None,
) -> Parts | FileProblem:
    """Read a pack's parts by table; return the problem if one of them is damaged."""
    parts: Parts = {}
    for name in names:
        try:
            if name == "cells":
                parts[name] = decode(pack.cells, columns)
            elif name in pack.details:
                parts[name] = decode(read_verified(pack, name))
        except (ValueError, OSError) as error:
            path, unreadable = part_path(folder, name, pack.stem), isinstance(error, _Unreadable)
            return FileProblem(path, str(error), pack.stem, unreadable)
    return parts


def read_verified(pack: StoredPack, name: str) -> bytes:
    """Read a pack's part of a table other than `cells`, and verify its checksum.

    Raises
    ------
    ValueError
        The content is damaged.
    FileVanished
        The pack is gone.
    """
    data = read_existing(pack.details[name])
    if pack.manifest is not None and FileDigest.of(data) != pack.manifest.parts[name]:
        raise ValueError("damaged (wrong checksum)")
    return data


def read_existing(path: Path) -> bytes:
    """Read a file that was just listed.

    Raises
    ------
    FileVanished
        It no longer exists.
    ValueError
        It can't be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise FileVanished(path) from error
    except OSError as error:
        raise _Unreadable(error) from error


Listing = dict[str, list[Path]]


def _stable_listing(folder: SweepFolder) -> tuple[Listing, set[str]]:
    """List the files of each table, and the stems of packs that are being written.

    While files are added and removed, one listing may show neither a part nor its replacement. So
    list again until two listings agree. List the detail tables first, then the journals, then
    `cells`: a journal is deleted only after `cells` is written, so that each listed detail part
    has a listed journal or a listed part in `cells`.
    """
    previous = None
    for _ in range(ATTEMPTS):
        listed = {name: _list_files(folder.table(name)) for name in DETAIL_TABLES}
        # Merges leave claims beside the journals; journals of Slurm jobs lie in subfolders.
        journals = {path.stem for path in _list_files(folder.journals)}
        journals |= journals_in(folder.journals).keys()
        listed["cells"] = _list_files(folder.table("cells"))
        if listed == previous:
            break
        previous = listed
    return listed, journals


def _list_files(folder: Path) -> list[Path]:
    """List a folder without hidden files, which are half-written or of other origin."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return [folder / name for name in sorted(names) if not name.startswith(".")]


def _parts_by_stem(paths: list[Path]) -> dict[str, Path]:
    return {path.stem: path for path in paths if path.suffix == ".parquet"}


def _open_pack(folder: SweepFolder, path: Path, listed: Listing) -> StoredPack:
    data = read_existing(path)
    manifest = read_manifest(data)
    if manifest is not None:
        details = {name: part_path(folder, name, path.stem) for name in manifest.parts}
        return StoredPack(path.stem, data, details, manifest)
    schema = pq.read_schema(pa.BufferReader(data))
    for name, data_type in REQUIRED_COLUMNS.items():
        if schema.get_field_index(name) < 0 or schema.field(name).type != data_type:
            raise _ForeignFile("not a table of this sweep; ignored")
    paths = {name: _parts_by_stem(listed[name]).get(path.stem) for name in DETAIL_TABLES}
    details = {name: detail for name, detail in paths.items() if detail is not None}
    return StoredPack(path.stem, data, details, None)


def _missing_or_resized(folder: SweepFolder, pack: StoredPack) -> list[FileProblem]:
    problems = []
    for name, expected in pack.manifest.parts.items() if pack.manifest else ():
        path = pack.details[name]
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            # Merging removes `cells` first: as long as that exists, the pack has not been replaced.
            if not part_path(folder, "cells", pack.stem).exists():
                raise FileVanished(path) from None
            problems.append(FileProblem(path, "missing", pack.stem))
        except OSError as error:
            reason = str(_Unreadable(error))
            problems.append(FileProblem(path, reason, pack.stem, unreadable=True))
        else:
            if size != expected.size:
                reason = f"damaged ({size} bytes instead of {expected.size})"
                problems.append(FileProblem(path, reason, pack.stem))
    return problems


def quarantine(folder: SweepFolder) -> list[FileProblem]:
    """Verify every part in full, and move all parts of damaged packs to `quarantine/`.

    Temporary files of killed processes are deleted, unless Slurm jobs may be writing some; files
    that do not belong to the sweep are not changed. The caller must hold the lock of
    `acquire_sweep_lock`.

    Returns
    -------
    list of FileProblem
        The problem of each file; for a file of a damaged pack, also the folder to which it moved.

    Raises
    ------
    FaninError
        The system cannot read a file of a pack, which may be intact. Nothing is moved.
    """
    if not _has_leases(folder):
        _delete_temporary_files(folder)
    problems = retry_on_race(lambda: _find_problems(folder))
    for problem in problems:
        if problem.unreadable:
            raise FaninError(
                f"{problem}. Nothing was moved. Run the same command again when the file can be "
                "read, or delete it to run its cells again."
            )
    for stem in dict.fromkeys(problem.stem for problem in problems if problem.stem is not None):
        for name in reversed(TABLES):  # `cells` first, because readers start from it
            _move_to_quarantine(folder, name, stem)
    return [
        replace(
            problem, reason=f"{problem.reason}; moved all files of its pack to {folder.quarantine}/"
        )
        if problem.stem is not None
        else problem
        for problem in problems
    ]


def _has_leases(folder: SweepFolder) -> bool:
    """Return True if a Slurm job may run cells of this sweep; its journals lie in its lease."""
    return any(p.is_dir() and p.suffix != TAKEN_SUFFIX for p in folder.journals.glob("*"))


def _delete_temporary_files(folder: SweepFolder) -> None:
    """Delete temporary files, except those of `predictions`, which analysis may be writing now."""
    tables = (folder.table(name) for name in TABLES)
    for parent in (folder.root, folder.errors, folder.journals, *tables):
        for path in parent.glob(TEMPORARY):
            with writing(path):
                path.unlink(missing_ok=True)


def _find_problems(folder: SweepFolder) -> list[FileProblem]:
    stored = scan(folder)
    packs = (read_pack(folder, pack) for pack in stored.packs.values())
    return stored.problems + [pack for pack in packs if isinstance(pack, FileProblem)]


def _move_to_quarantine(folder: SweepFolder, name: str, stem: str) -> None:
    path, target = part_path(folder, name, stem), folder.quarantine / name
    with writing(path):
        if not path.exists():
            return
        target.mkdir(parents=True, exist_ok=True)
        names = (f"{stem}{f'.{n}' if n else ''}.parquet" for n in count())
        path.replace(next(target / new for new in names if not (target / new).exists()))
