"""The frozen plan: what was asked, of which code, on which machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import yaml

from experiments.atomic_write import atomic_write
from experiments.config.identity import scientific
from experiments.sweep.provenance import code_version, git, machine, versions
from experiments.sweep.store.format_version import write_format
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.types import PlannedCell
from fanin.errors import ConfigError

LIBRARIES = ("torch", "numpy", "pandas", "pyarrow", "scipy", "hydra-core")
LINE = ("cell_id", "asked", "choices", "config")
OPTIONAL = ("engine",)
PlanRecord = dict[str, Any]
"""A line of `cells.jsonl`: `cell_id`, what was `asked`, the `choices` and `config` that made."""


def read_plan(folder: SweepFolder) -> dict[str, PlanRecord]:
    """Read every cell that was ever planned in this folder, by id.

    Lines that can't be read are passed over; the next launch writes those it needs anew.
    """
    lines: dict[str, PlanRecord] = {}
    if folder.plan.exists():
        for text in folder.plan.read_bytes().splitlines():
            with suppress(ValueError, KeyError, TypeError):
                line = json.loads(text)
                lines[line["cell_id"]] = {key: line[key] for key in LINE} | {
                    key: line[key] for key in OPTIONAL if key in line
                }
    return lines


def check_plan(
    folder: SweepFolder, frozen: Mapping[str, PlanRecord], cells: Sequence[PlannedCell]
) -> None:
    """Compare the whole configurations of cells with those that are kept under their ids.

    Raises
    ------
    ConfigError
        A cell that is there under the same id has another configuration.
    """
    for cell in cells:
        before = frozen.get(cell.id, {"config": cell.config})["config"]
        # Not by their hashes, which are in the ids: those would be equal where two cells collide.
        if before != cell.config and scientific(before) != scientific(cell.config):
            raise ConfigError(
                f"{folder.plan}: {cell.id} is there with another configuration; "
                "choose another sweep.name"
            )


def write_plan(
    folder: SweepFolder,
    frozen: Mapping[str, PlanRecord],
    cells: Sequence[PlannedCell],
    engines: Mapping[str, str],
    asked: Mapping[str, Any],
) -> None:
    """Write `cells.jsonl` and `sweep.yaml`, adding to what earlier launches wrote there.

    Parameters
    ----------
    folder
        The sweep's.
    frozen
        What is there (`read_plan`).
    cells
        What this launch asks for.
    engines
        Cells whose engine was found by timing, and which it was: it stays so.
    asked
        The sweep as asked, for people.
    """
    known = dict(frozen)
    for cell in cells:
        timed = {"engine": engines[cell.id]} if cell.id in engines else {}
        before = known.get(cell.id, {})
        known[cell.id] = {
            "cell_id": cell.id,
            "asked": cell.assignment,
            "choices": cell.choices,
            "config": cell.config,
            **{key: before[key] for key in OPTIONAL if key in before},
            **timed,
        }
    lines = "".join(f"{json.dumps(line)}\n" for line in known.values())
    write_format(folder)  # first: a plan without a version is refused
    atomic_write(folder.plan, lines.encode())
    about = {
        **asked,
        "cells": len(cells),
        "launched": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": code_version(),
        "machine": machine(),
        "versions": versions("python", *LIBRARIES),
        "diff": git("diff", "HEAD") or "",
    }
    # One YAML document a launch: results of earlier launches came from the code named there.
    text = yaml.safe_dump(about, sort_keys=False, allow_unicode=True, width=100)
    earlier = folder.provenance.read_bytes() if folder.provenance.exists() else b""
    atomic_write(folder.provenance, earlier + f"---\n{text}".encode())
