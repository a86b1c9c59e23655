"""Plan of a sweep on disk: `cells.jsonl` for machines, `sweep.yaml` for people."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import yaml

from experiments.atomic_write import atomic_write, writing
from experiments.config.identity import own_path_key, scientific
from experiments.sweep.clone import SIGNATURES, sign_targets
from experiments.sweep.provenance import code_version, git, machine, versions
from experiments.sweep.store.format_version import write_format
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.types import PlannedCell
from fanin.errors import ConfigError, DataError

LIBRARIES = ("torch", "numpy", "pandas", "pyarrow", "scipy", "hydra-core")
REQUIRED_KEYS = ("cell_id", "assignment", "choices", "config")
OPTIONAL_KEYS = ("engine", "seconds")
PlanRecord = dict[str, Any]
"""A line of `cells.jsonl`.

Its keys are `cell_id`; `assignment`, the keys that the command or the named sweep sets; `choices`,
the option of each group; `config`, the resolved config; `engine`, if timing chose one; and
`seconds`, the time that the cell was expected to take when it was last to run.
"""


def read_plan(folder: SweepFolder) -> dict[str, PlanRecord]:
    """Read the record of every cell that was ever planned in a folder, by cell id.

    Damaged lines are skipped. The next launch writes those that it needs again.
    """
    records: dict[str, PlanRecord] = {}
    if folder.plan.exists():
        for line in folder.plan.read_bytes().splitlines():
            with suppress(ValueError, KeyError, TypeError):
                record = json.loads(line)
                records[record["cell_id"]] = {key: record[key] for key in REQUIRED_KEYS} | {
                    key: record[key] for key in OPTIONAL_KEYS if key in record
                }
    return records


def record_request(folder: SweepFolder, cells: Iterable[str]) -> None:
    """Record the ids of the cells of the last command. Analysis uses these cells by default."""
    atomic_write(folder.request, json.dumps({"cells": list(cells)}).encode())


def read_request(folder: SweepFolder) -> frozenset[str] | None:
    """Read the ids of the cells of the last command.

    Return None if they are not recorded: the folder was written by an older version of fanin.

    Raises
    ------
    DataError
        The file is damaged.
    """
    request = _recorded_request(folder)
    return None if request is None else frozenset(request)


def _recorded_request(folder: SweepFolder) -> list[str] | None:
    try:
        return [str(cell) for cell in json.loads(folder.request.read_bytes())["cells"]]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder.request}: not readable ({error}). Run the sweep's command again to write it; "
            "finished cells do not run again"
        ) from None


def remove_planned(folder: SweepFolder, cells: Collection[str]) -> None:
    """Remove cells from the last request and from the plan; keep the other records.

    If no cell of the last request remains, no request is recorded.
    """
    request = _recorded_request(folder)
    remaining = [cell for cell in request or () if cell not in cells]
    if remaining:
        record_request(folder, remaining)
    else:
        with writing(folder.request):
            folder.request.unlink(missing_ok=True)
    records = read_plan(folder).values()
    lines = (f"{json.dumps(record)}\n" for record in records if record["cell_id"] not in cells)
    atomic_write(folder.plan, "".join(lines).encode())


def check_plan(
    folder: SweepFolder, records: Mapping[str, PlanRecord], cells: Sequence[PlannedCell]
) -> None:
    """Compare the configs of cells with the planned configs of the same ids.

    Raises
    ------
    ConfigError
        A cell id is already planned with another config.
    """
    for cell in cells:
        planned = records.get(cell.id, {"config": cell.config})["config"]
        # Compare configs, not hashes: the ids contain the hashes, which are equal in a collision.
        if planned != cell.config and scientific(planned) != scientific(cell.config):
            raise ConfigError(
                f"{folder.plan}: {cell.id} is already planned with another config; "
                "choose another sweep.name"
            )


def write_plan(
    folder: SweepFolder,
    records: Mapping[str, PlanRecord],
    cells: Sequence[PlannedCell],
    engines: Mapping[str, str],
    seconds: Mapping[str, float],
    request: Mapping[str, Any],
) -> None:
    """Write `cells.jsonl` and `sweep.yaml`, keeping the records of earlier launches.

    Parameters
    ----------
    folder
        Folder of the sweep.
    records
        Records that are already in the folder (`read_plan`).
    cells
        Cells that this launch requests.
    engines
        Engines that timing chose, by cell id. Later launches keep to them.
    seconds
        Expected time of the cells to run, by cell id.
    request
        Description of the request for `sweep.yaml`.
    """
    updated = dict(records)
    for cell in cells:
        optional = {"engine": engines.get(cell.id), "seconds": seconds.get(cell.id)}
        previous = updated.get(cell.id, {})
        updated[cell.id] = {
            "cell_id": cell.id,
            "assignment": cell.assignment,
            "choices": cell.choices,
            "config": cell.config,
            **{key: previous[key] for key in OPTIONAL_KEYS if key in previous},
            **{key: value for key, value in optional.items() if value is not None},
        }
    _update_paths(updated, {cell.id for cell in cells})
    lines = "".join(f"{json.dumps(record)}\n" for record in updated.values())
    write_format(folder)  # first: readers refuse a plan without a format version
    atomic_write(folder.plan, lines.encode())
    launch = {
        **request,
        "cells": len(cells),
        "launched": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": code_version(),
        "machine": machine(),
        "versions": versions("python", *LIBRARIES),
        SIGNATURES: sign_targets(cell.config for cell in cells),
        "diff": git("diff", "HEAD") or "",
    }
    # One YAML document per launch: results of earlier launches came from the code named there.
    text = yaml.safe_dump(launch, sort_keys=False, allow_unicode=True, width=100)
    earlier = folder.provenance.read_bytes() if folder.provenance.exists() else b""
    if earlier and not earlier.endswith(b"\n"):  # the file was truncated
        earlier += b"\n"
    atomic_write(folder.provenance, earlier + f"---\n{text}".encode())


def _update_paths(records: dict[str, PlanRecord], launched: Collection[str]) -> None:
    """Write the current path of the user's own data files into the records of other cells.

    Otherwise cells with the same data would differ in `data.folder`, and count as two settings.
    """
    current = {_content(records[cell_id]): records[cell_id] for cell_id in launched}
    for cell_id, record in records.items():
        latest = current.get(_content(record))
        key = own_path_key(record["config"])
        if key is None or latest is None or cell_id in launched:
            continue
        name = key.partition(".")[2]
        data = record["config"]["data"] | {name: latest["config"]["data"][name]}
        assignment = dict(record["assignment"])
        if key in assignment:
            assignment[key] = latest["assignment"].get(key, data[name])
        records[cell_id] = record | {
            "assignment": assignment,
            "config": record["config"] | {"data": data},
        }


def _content(record: PlanRecord) -> tuple[str | None, str | None]:
    """Return the key and the hash of the user's own data files; None for other data sets."""
    key = own_path_key(record["config"])
    return key, record["config"]["data"].get("content") if key else None
