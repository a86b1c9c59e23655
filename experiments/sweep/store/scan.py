"""Which packs a sweep's folder holds, and which of its files are spoilt or none of ours."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from experiments.sweep.store.journal import journals_in
from experiments.sweep.store.manifest import Manifest, Sum, unseal
from experiments.sweep.store.parquet import part_path
from experiments.sweep.store.paths import SIBLINGS, SweepFolder
from fanin.errors import FaninError

WORDS = pa.dictionary(pa.int32(), pa.string())
OURS = {"cell_id": WORDS, "attempt": pa.int32(), "outcome": WORDS}  # what all `cells` parts have
TRIES, PAUSE = 20, 0.05  # how often to look again while files come and go, and seconds between

T = TypeVar("T")


@dataclass(frozen=True)
class Fault:
    """A file that isn't what it should be, and why; `stem` where it spoils that pack."""

    path: Path
    reason: str
    stem: str | None = None

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class StoredPack:
    """A pack's parts: the verified content of `cells`, and the paths of the others by table."""

    stem: str
    cells: bytes
    siblings: dict[str, Path]
    manifest: Manifest | None  # None in parts that are older than manifests


@dataclass(frozen=True)
class Survey:
    """What lies in a folder: sound packs by their stems, faults, packs that others replace."""

    packs: dict[str, StoredPack]
    faults: list[Fault]
    superseded: frozenset[str]


class _Foreign(ValueError):
    """Sound, but not written by a sweep."""


class Vanished(Exception):
    """A file went between the listing and the reading of it: packs are being merged."""


def steadily(read: Callable[[], T]) -> T:
    """Read again while files vanish under the reader's hands.

    Raises
    ------
    FaninError
        They don't cease to.
    """
    for _ in range(TRIES):
        try:
            return read()
        except Vanished as gone:
            last = gone
            time.sleep(PAUSE)
    raise FaninError(f"{last}: gone whenever it is to be read; does somebody clear this folder?")


def survey(folder: SweepFolder) -> Survey:
    """Look through a folder: `cells` parts are verified in full, of others only the size.

    Raises
    ------
    Vanished
        As it says; see `steadily`.
    """
    listed, journals = _list_twice(folder)
    faults = [
        Fault(path, "not one of this sweep's tables; left alone")
        for paths in listed.values()
        for path in paths
        if path.suffix != ".parquet"
    ]
    packs: dict[str, StoredPack] = {}
    for stem, path in _parts(listed["cells"]).items():
        try:
            packs[stem] = _open(folder, path, listed)
        except _Foreign as error:
            faults.append(Fault(path, str(error)))
        except ValueError as error:
            faults.append(Fault(path, str(error), stem))
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
    for name in SIBLINGS:
        faults += [
            Fault(path, "no cells of this sweep go with it; left alone")
            for stem, path in _parts(listed[name]).items()
            if stem not in known
        ]
    return Survey(packs, faults, superseded)


def verified(pack: StoredPack, name: str) -> bytes:
    """The content of a pack's other part, which `cells` vouches for.

    Raises
    ------
    ValueError
        It isn't what was written; the message says so.
    Vanished
        The pack is gone.
    """
    data = read_listed(pack.siblings[name])
    if pack.manifest is not None and Sum.of(data) != pack.manifest.parts[name]:
        raise ValueError("its content isn't what was written there (wrong checksum)")
    return data


def read_listed(path: Path) -> bytes:
    """The content of a file that was there just now.

    Raises
    ------
    Vanished
        It no longer is.
    ValueError
        It can't be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise Vanished(path) from error
    except OSError as error:
        raise ValueError(f"it can't be read ({error.strerror or error})") from error


Listing = dict[str, list[Path]]


def _list_twice(folder: SweepFolder) -> tuple[Listing, set[str]]:
    """The files of each table, and the stems of packs that are being written.

    A folder that is read while files come and go may show neither a part nor what replaces it: so
    the listing counts when a second one is the same. Of a pack that is just being written, first
    the siblings are listed, then its journal, then `cells`: in the opposite order of their lives.
    """
    before = None
    for _ in range(TRIES):
        listed = {name: _files(folder.table(name)) for name in SIBLINGS}
        # Claims of merges lie beside the journals, those of a cluster's jobs deeper.
        journals = {path.stem for path in _files(folder.journals)}
        journals |= journals_in(folder.journals).keys()
        listed["cells"] = _files(folder.table("cells"))
        if listed == before:
            break
        before = listed
    return listed, journals


def _files(folder: Path) -> list[Path]:
    """What lies in a folder, but for hidden files: those are half written, or somebody else's."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return [folder / name for name in sorted(names) if not name.startswith(".")]


def _parts(paths: list[Path]) -> dict[str, Path]:
    return {path.stem: path for path in paths if path.suffix == ".parquet"}


def _open(folder: SweepFolder, path: Path, listed: Listing) -> StoredPack:
    data = read_listed(path)
    manifest = unseal(data)
    if manifest is not None:
        siblings = {name: part_path(folder, name, path.stem) for name in manifest.parts}
        return StoredPack(path.stem, data, siblings, manifest)
    schema = pq.read_schema(pa.BufferReader(data))
    if any(schema.get_field_index(n) < 0 or schema.field(n).type != t for n, t in OURS.items()):
        raise _Foreign("not one of this sweep's tables; left alone")
    there = {name: _parts(listed[name]).get(path.stem) for name in SIBLINGS}
    return StoredPack(path.stem, data, {n: p for n, p in there.items() if p is not None}, None)


def _missing_or_resized(folder: SweepFolder, pack: StoredPack) -> list[Fault]:
    faults = []
    for name, expected in pack.manifest.parts.items() if pack.manifest else ():
        path = pack.siblings[name]
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            # Merging removes `cells` first: while that is there, nobody has replaced the pack.
            if not part_path(folder, "cells", pack.stem).exists():
                raise Vanished(path) from None
            faults.append(Fault(path, "it is missing", pack.stem))
        else:
            if size != expected.size:
                reason = f"it has {size} bytes instead of {expected.size}"
                faults.append(Fault(path, reason, pack.stem))
    return faults
