"""Summary of a command whose cells are all done, without building a cell.

Building cells loads torch, which takes seconds. `finished.json` in the sweep's folder therefore
holds the ids of the cells of the last command that found all of its cells done, and a digest of
everything that they depend on: the code, all options, and the command.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from rich.console import Console

from experiments.atomic_write import atomic_write
from experiments.config.catalog import ConfigCatalog
from experiments.config.identity import own_path_key
from experiments.sweep.overrides import Argument
from experiments.sweep.provenance import code_version, user_modules
from experiments.sweep.request import Request
from experiments.sweep.status.summary import show_counts, show_end
from experiments.sweep.store.format_version import check_format
from experiments.sweep.store.journal import journals_in
from experiments.sweep.store.lock import acquire_sweep_lock
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.plan_file import record_request
from experiments.sweep.store.scan import quarantine
from experiments.sweep.store.tables import DONE, read_states


def request_digest(catalog: ConfigCatalog, arguments: Sequence[Argument]) -> str | None:
    """Return a digest of everything that the cells of a command depend on.

    Return None if they depend on more than the code, the options and the command.
    """
    options = catalog.digest()
    if options is None:
        return None
    inputs = [code_version(), options, [argument.text for argument in arguments]]
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()


def record_finished(
    folder: SweepFolder, digest: str | None, configs: Mapping[str, Mapping[str, Any]]
) -> None:
    """Record that all cells of a command are done.

    Parameters
    ----------
    folder
        Folder of the sweep.
    digest
        Output of `request_digest`.
    configs
        Configs of the command's cells, by cell id. Nothing is recorded if they name the user's own
        modules or data files, because an edit there may change the cells.
    """
    has_own_data = any(own_path_key(config) for config in configs.values())
    if digest is not None and not has_own_data and not user_modules(configs.values()):
        record = {"request": digest, "cells": list(configs)}
        atomic_write(folder.finished, json.dumps(record).encode())


def show_if_finished(request: Request, digest: str | None, console: Console) -> int | None:
    """Print the summary of a request whose cells are all done, and return its exit status.

    Return None if some cell may have to run, or if the request does not run cells.
    """
    folder = request.folder
    ids = _recorded_cells(folder, digest)
    if ids is None or request.settings.mode != "run" or journals_in(folder.journals):
        return None
    check_format(folder)
    with acquire_sweep_lock(folder):
        for problem in quarantine(folder):
            console.print(str(problem), highlight=False, markup=False, soft_wrap=True)
        states = read_states(folder)
        if not all(cell in states and states[cell].outcome in DONE for cell in ids):
            return None
        record_request(folder, ids)
    counts = {"done": len(ids), "missing": 0, "failed": 0, "interrupted": 0}
    show_counts(console, request, counts)
    return show_end(console, request, {cell: states[cell] for cell in ids}, len(ids))


def _recorded_cells(folder: SweepFolder, digest: str | None) -> list[str] | None:
    with suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads(folder.finished.read_bytes())
        if digest is not None and record["request"] == digest:
            return [str(cell) for cell in record["cells"]]
    return None
