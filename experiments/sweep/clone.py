"""Signatures that show which targets of a sweep's configs were planned by this clone.

`sweep.yaml` records, for each `_target_` outside this repository, an HMAC with a random key that
only this clone has. A copied or edited results folder cannot contain a valid signature of another
target.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from experiments.config.trust import foreign_targets
from experiments.sweep.provenance import REPOSITORY
from experiments.sweep.store.paths import SweepFolder

KEY_FILE = REPOSITORY / ".clone_key"
SIGNATURES = "targets"  # key of a launch in sweep.yaml


def sign_targets(configs: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the signature of each target outside this repository.

    Empty if the clone has no key and none can be written.
    """
    targets = sorted(foreign_targets(configs))
    key = _make_key(KEY_FILE) if targets else None
    return {} if key is None else {target: _sign(key, target) for target in targets}


def untrusted_targets(folder: SweepFolder, configs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the targets outside this repository that this clone has not planned."""
    targets = foreign_targets(configs)
    key = _read_key(KEY_FILE)
    if not targets or key is None:
        return sorted(targets)
    signatures = _signatures(folder)
    return sorted(
        target
        for target in targets
        if not any(
            hmac.compare_digest(_sign(key, target).encode(), signature.encode())
            for signature in signatures.get(target, ())
        )
    )


def _signatures(folder: SweepFolder) -> dict[str, list[str]]:
    """Return the recorded signatures by target; damaged records count as none."""
    found: dict[str, list[str]] = {}
    with suppress(OSError, yaml.YAMLError, UnicodeDecodeError):
        for launch in yaml.safe_load_all(folder.provenance.read_text()):
            recorded = launch.get(SIGNATURES) if isinstance(launch, Mapping) else None
            if isinstance(recorded, Mapping):
                for target, signature in recorded.items():
                    found.setdefault(str(target), []).append(str(signature))
    return found


def _sign(key: bytes, target: str) -> str:
    return hmac.new(key, target.encode(), hashlib.sha256).hexdigest()[:32]


def _read_key(path: Path) -> bytes | None:
    try:
        return path.read_bytes() or None
    except OSError:
        return None


def _make_key(path: Path) -> bytes | None:
    """Return the clone's key, written once; None if the folder is read-only."""
    if _read_key(path) is None:
        with suppress(OSError), tempfile.NamedTemporaryFile(dir=path.parent) as file:
            file.write(secrets.token_hex(32).encode())
            file.flush()
            with suppress(FileExistsError):  # another launch was first
                os.link(file.name, path)
    return _read_key(path)
