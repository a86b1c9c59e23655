"""Launches, run time, machines and code of a sweep, and the commands to reproduce it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from experiments.sweep.differences import full_label
from experiments.sweep.provenance import typed_command
from experiments.sweep.status.format import duration, plural
from experiments.sweep.status.status import Status
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.plan_file import PlanRecord
from fanin.commands import command_line

LIBRARIES = ("python", "torch", "numpy")
RUNNER_OPTION = re.compile(r"[+~]{0,2}(runner[.=]|sweep\.mode=)")
MAX_HOSTS = 8  # listed by name


@dataclass(frozen=True)
class Launch:
    """One launch of a sweep, as recorded in `sweep.yaml`.

    Attributes
    ----------
    question
        Question that the sweep answers, or None.
    source
        Publication that the sweep reproduces, or None.
    axes
        For each grid, the values of its axes in command-line notation.
    exclude
        Excluded combinations.
    launched
        ISO time.
    code
        Commit; with uncommitted changes, followed by `+` and a digest of the changes.
    diff_lines
        Number of lines of the diff of uncommitted changes.
    machine
        Host, system, number of cores and command.
    versions
        Versions of Python and libraries.
    """

    question: str | None
    source: str | None
    axes: tuple[Mapping[str, Sequence[str]], ...]
    exclude: tuple[str, ...]
    launched: str
    code: str
    diff_lines: int
    machine: Mapping[str, Any]
    versions: Mapping[str, str]

    @property
    def commit(self) -> str:
        """The commit without the digest of uncommitted changes."""
        return self.code.partition("+")[0]

    @property
    def dirty(self) -> bool:
        """True if the code had uncommitted changes."""
        return "+" in self.code

    @property
    def command(self) -> str:
        """The command as typed, without the path of Python."""
        return typed_command(str(self.machine.get("command", "")))


@dataclass(frozen=True)
class AxisValues:
    """An axis and its values."""

    name: str
    values: tuple[str, ...]


def read_launches(folder: SweepFolder) -> tuple[list[Launch], list[str]]:
    """Read the launches of a sweep, oldest first, and warnings about unreadable ones."""
    try:
        text = folder.provenance.read_text(errors="replace")
    except OSError as error:
        return [], [f"{folder.provenance}: not readable ({error.strerror})"]
    launches, n_unreadable = [], 0
    for document in re.split(r"^---\n", text, flags=re.M):
        if document.strip():
            try:
                launches.append(_launch(yaml.safe_load(document)))
            except (yaml.YAMLError, TypeError, AttributeError, ValueError):
                n_unreadable += 1
    if not n_unreadable:
        return launches, []
    return launches, [f"{folder.provenance}: {plural(n_unreadable, 'launch record')} not readable"]


def collect_axes(launches: Sequence[Launch], plan: Mapping[str, PlanRecord]) -> list[AxisValues]:
    """Return the axes of all launches, each with the values that planned cells have."""
    words_of_cells = {frozenset(full_label(r["assignment"]).split()) for r in plan.values()}
    axes: dict[str, dict[str, None]] = {}
    for launch in launches:
        for grid in launch.axes:
            for name, values in grid.items():
                used = [v for v in values if any(words >= {*v.split()} for words in words_of_cells)]
                # The value `init=normal init.std=0.01` of the axis `init`: `normal init.std=0.01`.
                texts = (value.removeprefix(f"{name}=") for value in used)
                axes.setdefault(name, {}).update(dict.fromkeys(texts))
    return [AxisValues(name, tuple(values)) for name, values in axes.items() if values]


def _launch(record: Mapping[str, Any]) -> Launch:
    grids = record.get("axes", ())
    return Launch(
        question=record.get("question"),
        source=record.get("source"),
        axes=tuple({str(k): tuple(map(str, v)) for k, v in grid.items()} for grid in grids),
        exclude=tuple(map(str, record.get("exclude") or ())),
        launched=str(record.get("launched", "")),
        code=str(record.get("code", "unknown")),
        diff_lines=len(str(record.get("diff") or "").splitlines()),
        machine=dict(record.get("machine") or {}),
        versions={str(k): str(v) for k, v in (record.get("versions") or {}).items()},
    )


def sweep_facts(status: Status, launches: Sequence[Launch], cells: pd.DataFrame) -> dict[str, str]:
    """Return labels and texts on cells, time, machines and code, in the order of the page."""
    facts = {
        "Cells": _cells(status),
        "Cell time": _cell_time(cells),
        "Wall time": _wall_time(status),
    }
    if launches:
        last = launches[-1]
        suffix = f", the last of {len(launches)} launches" if len(launches) > 1 else ""
        facts["Launched"] = _to_minute(last.launched) + suffix
        facts["Launch host"] = _machine(last)
    facts["Worker hosts"] = _hosts(cells)
    facts["Versions"] = _versions(launches, cells)
    facts["Code"] = _code(status, launches)
    return {label: text for label, text in facts.items() if text}


def _cells(status: Status) -> str:
    ended = status.counts["done"] + status.counts["failed"]
    return f"{status.cells:,}" + (f", {ended:,} of them ended" if ended < status.cells else "")


def _cell_time(cells: pd.DataFrame) -> str:
    if cells.empty or not cells["seconds"].notna().any():
        return ""
    seconds = cells["seconds"]
    return (
        f"{duration(seconds.sum())} in total; median {duration(seconds.median())}, "
        f"longest {duration(seconds.max())}"
    )


def _wall_time(status: Status) -> str:
    if status.elapsed <= 0:
        return ""
    suffix = "" if status.state == "finished" else " so far"
    return f"{duration(status.elapsed)} in the last launch{suffix}"


def _machine(launch: Launch) -> str:
    parts = [str(launch.machine.get(key, "")) for key in ("host", "system")]
    cores = launch.machine.get("cores")
    return ", ".join(filter(None, [*parts, f"{cores} cores" if cores else ""]))


def _hosts(cells: pd.DataFrame) -> str:
    if cells.empty:
        return ""
    hosts = cells["host"].astype(str).value_counts()
    listed = [f"{host} ({plural(count, 'cell')})" for host, count in hosts.head(MAX_HOSTS).items()]
    more = [f"{len(hosts) - MAX_HOSTS} more hosts"] if len(hosts) > MAX_HOSTS else []
    devices = ", ".join(map(str, cells["device"].dropna().unique()))
    return ", ".join([*listed, *more]) + (f"; {devices}" if devices else "")


def _versions(launches: Sequence[Launch], cells: pd.DataFrame) -> str:
    versions = dict(launches[-1].versions) if launches else {}
    for library in LIBRARIES:
        if not cells.empty and library in cells:
            used = cells[library].dropna().astype(str).unique()
            if len(used):
                versions[library] = " and ".join(sorted(used))
    return ", ".join(f"{library} {version}" for library, version in versions.items())


def _code(status: Status, launches: Sequence[Launch]) -> str:
    codes = dict(status.code_versions)
    if not codes and launches:
        codes = {launches[-1].code: 0}
    return "; ".join(_commit(code, count, len(codes) > 1) for code, count in codes.items())


def _commit(code: str, count: int, with_count: bool) -> str:
    commit, _, digest = code.partition("+")
    state = (
        f"with uncommitted changes ({digest}; diff in sweep.yaml)"
        if digest
        else "no uncommitted changes"
    )
    cells = f" ({plural(count, 'cell')})" if with_count else ""
    return f"{commit}, {state}{cells}"


def _to_minute(time: str) -> str:
    """Format an ISO time in UTC as `2026-11-25 19:52 UTC`."""
    return f"{time[:16].replace('T', ' ')} UTC" if time.endswith("+00:00") else time


@dataclass(frozen=True)
class Step:
    """Commands with their purpose."""

    title: str
    commands: tuple[str, ...]


def analysis_command(folder: SweepFolder, name: str, *arguments: str) -> str:
    """Return the command line that runs a command of `fanin` on a sweep."""
    results = folder.root.parent
    options = [] if results == Path("results") else ["--results", str(results)]
    return command_line(name, folder.root.name, *arguments, *options)


def reproduction_steps(
    folder: SweepFolder, launches: Sequence[Launch], has_measured_layers: bool, has_figures: bool
) -> list[Step]:
    """Return the commands that reproduce a sweep and its analysis, in order.

    Parameters
    ----------
    has_measured_layers
        Layers were measured at initialization, so that `fanin check` has something to compare.
    has_figures
        `fanin figures` can draw a figure.
    """
    dirty = launches and launches[-1].dirty
    diff = (
        f"; then apply the diff in {folder.provenance.name} (uncommitted changes)" if dirty else ""
    )
    steps = [Step(f"Check out and install the code{diff}", tuple(_checkout(launches)))]
    typed = [launch.command for launch in launches if launch.command]
    commands = tuple(dict.fromkeys(map(without_runner, typed)))
    if commands:
        note = (
            "; the options of the runner are left out, because results do not depend on it"
            if set(commands) - set(typed)
            else ""
        )
        steps.append(Step(f"Run the cells (finished cells are skipped{note})", commands))
    if has_measured_layers:
        steps.append(Step("Check against theory", (analysis_command(folder, "check"),)))
    if has_figures:
        steps.append(
            Step("Write the figures as PDF, SVG and PNG", (analysis_command(folder, "figures"),))
        )
    steps.append(Step("Write this page", (analysis_command(folder, "report"),)))
    return steps


def without_runner(command: str) -> str:
    """Remove the options that say where cells run; another machine may not have that runner.

    >>> without_runner("fanin run -m sweep=he2015 runner=slurm_local sweep.mode=submit")
    'fanin run -m sweep=he2015'
    """
    words = [word for word in shlex.split(command) if not RUNNER_OPTION.match(word)]
    return shlex.join(words)


def _checkout(launches: Sequence[Launch]) -> list[str]:
    commits = list(dict.fromkeys(launch.commit for launch in launches))
    known = [commit for commit in commits if commit != "unknown"]
    return [*(f"git checkout {commit}" for commit in known[-1:]), "make setup"]
