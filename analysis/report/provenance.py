"""Launches, time, machines and code of a sweep, and the commands that make it again."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import pandas as pd
import yaml

from experiments.sweep.status.format import duration, plural
from experiments.sweep.status.status import Status
from experiments.sweep.store.paths import SweepFolder

VERSIONS = ("python", "torch", "numpy")


@dataclass(frozen=True)
class Launch:
    """One launch.

    Attributes
    ----------
    source
        The publication that the sweep makes again.
    axes
        Of each grid, its axes' values as one would type them.
    code
        The commit; `+` and a digest where the files differed from it.
    diff_lines
        Lines of what differed, which `sweep.yaml` keeps.
    """

    question: str | None
    source: str | None
    axes: tuple[Mapping[str, Sequence[str]], ...]
    exclude: tuple[str, ...]
    when: str
    code: str
    diff_lines: int
    machine: Mapping[str, Any]
    versions: Mapping[str, str]

    @property
    def commit(self) -> str:
        """Without what tells a changed tree from the commit."""
        return self.code.partition("+")[0]

    @property
    def dirty(self) -> bool:
        """True if the code differed from its commit."""
        return "+" in self.code

    @property
    def command(self) -> str:
        """The command as typed, without the path of Python."""
        words = shlex.split(str(self.machine.get("command", "")))
        if not words:
            return ""
        if re.fullmatch(r"fanin-\w+", program := PurePath(words[1]).name if words[1:] else ""):
            return shlex.join([program, *words[2:]])
        return shlex.join(["python", *words[1:]])


@dataclass(frozen=True)
class Axis:
    """A key that was asked for, and its values."""

    name: str
    values: tuple[str, ...]


def read_launches(folder: SweepFolder) -> tuple[list[Launch], list[str]]:
    """The launches of a sweep from the first to the last, and what can't be read, for people."""
    try:
        text = folder.provenance.read_text(errors="replace")
    except OSError as error:
        return [], [f"{folder.provenance}: can't be read ({error.strerror})"]
    launches, spoilt = [], 0
    for document in re.split(r"^---\n", text, flags=re.M):
        if document.strip():
            try:
                launches.append(_launch(yaml.safe_load(document)))
            except (yaml.YAMLError, TypeError, AttributeError, ValueError):
                spoilt += 1
    return launches, [
        f"{folder.provenance}: {spoilt} of its launches can't be read"
    ] if spoilt else []


def axes_of(launches: Sequence[Launch]) -> list[Axis]:
    """Every axis that any launch had, with all the values that it ever had."""
    found: dict[str, dict[str, None]] = {}
    for launch in launches:
        for grid in launch.axes:
            for name, values in grid.items():
                words = (_without(name, value) for value in values)
                found.setdefault(name, {}).update(dict.fromkeys(words))
    return [Axis(name, tuple(values)) for name, values in found.items()]


def _launch(about: Mapping[str, Any]) -> Launch:
    return Launch(
        question=about.get("question"),
        source=about.get("source"),
        axes=tuple({str(k): tuple(map(str, v)) for k, v in grid.items()} for grid in about["axes"])
        if "axes" in about
        else (),
        exclude=tuple(map(str, about.get("exclude") or ())),
        when=str(about.get("launched", "")),
        code=str(about.get("code", "unknown")),
        diff_lines=len(str(about.get("diff") or "").splitlines()),
        machine=dict(about.get("machine") or {}),
        versions={str(k): str(v) for k, v in (about.get("versions") or {}).items()},
    )


def _without(name: str, value: str) -> str:
    """`init=normal init.std=0.01` of the axis `init` is `normal init.std=0.01`."""
    return value.removeprefix(f"{name}=")


def facts(status: Status, launches: Sequence[Launch], cells: pd.DataFrame) -> dict[str, str]:
    """Words and what they stand for, in the order in which they are told."""
    found = {"Cells": _cells(status), "Cell time": _cell_time(cells), "Wall time": _wall(status)}
    if launches:
        last = launches[-1]
        again = f", the last of {len(launches)} launches" if len(launches) > 1 else ""
        found["Launched"] = _minute(last.when) + again
        found["Machine"] = _machine(last)
    found["Ran on"] = _hosts(cells)
    found["Versions"] = _versions(launches, cells)
    found["Code"] = _code(status, launches)
    return {word: said for word, said in found.items() if said}


def _cells(status: Status) -> str:
    ended = status.counts["done"] + status.counts["failed"]
    return f"{status.cells:,}" + (f", of which {ended:,} ended" if ended < status.cells else "")


def _cell_time(cells: pd.DataFrame) -> str:
    if cells.empty or not cells["seconds"].notna().any():
        return ""
    seconds = cells["seconds"]
    each = f"median {duration(seconds.median())}, longest {duration(seconds.max())}"
    return f"{duration(seconds.sum())} together; {each}"


def _wall(status: Status) -> str:
    if status.elapsed <= 0:
        return ""
    so_far = "" if status.state == "finished" else " so far"
    return f"{duration(status.elapsed)} in the last launch{so_far}"


def _machine(launch: Launch) -> str:
    told = [str(launch.machine.get(key, "")) for key in ("host", "system")]
    cores = launch.machine.get("cores")
    return ", ".join(filter(None, [*told, f"{cores} cores" if cores else ""]))


def _hosts(cells: pd.DataFrame) -> str:
    if cells.empty:
        return ""
    hosts = cells["host"].astype(str).value_counts()
    named = [f"{host} ({plural(count, 'cell')})" for host, count in hosts.head(8).items()]
    more = [f"{len(hosts) - 8} more hosts"] if len(hosts) > 8 else []
    devices = ", ".join(map(str, cells["device"].dropna().unique()))
    return ", ".join([*named, *more]) + (f"; {devices}" if devices else "")


def _versions(launches: Sequence[Launch], cells: pd.DataFrame) -> str:
    said = dict(launches[-1].versions) if launches else {}
    for library in VERSIONS:
        if not cells.empty and library in cells:
            ran = cells[library].dropna().astype(str).unique()
            if len(ran):
                said[library] = " and ".join(sorted(ran))
    return ", ".join(f"{library} {version}" for library, version in said.items())


def _code(status: Status, launches: Sequence[Launch]) -> str:
    codes = dict(status.code_versions)
    if not codes and launches:
        codes = {launches[-1].code: 0}
    return "; ".join(_commit(code, count, len(codes) > 1) for code, count in codes.items())


def _commit(code: str, count: int, several_codes: bool) -> str:
    commit, _, digest = code.partition("+")
    clean = f"with uncommitted changes ({digest}; sweep.yaml keeps them)" if digest else "clean"
    cells = f" ({plural(count, 'cell')})" if several_codes else ""
    return f"{commit}, {clean}{cells}"


def _minute(when: str) -> str:
    """`2026-11-25 19:52 UTC` of an ISO time."""
    return f"{when[:16].replace('T', ' ')} UTC" if when.endswith("+00:00") else when


@dataclass(frozen=True)
class Step:
    """Commands, and what they are for."""

    what: str
    commands: tuple[str, ...]


def on_sweep(folder: SweepFolder, module: str, *words: str) -> str:
    """A command of `analysis` on a sweep, as one would type it."""
    results = folder.root.parent
    where = [] if results == Path("results") else ["--results", str(results)]
    return shlex.join(["python", "-m", f"analysis.{module}", folder.root.name, *words, *where])


def steps(folder: SweepFolder, launches: Sequence[Launch]) -> list[Step]:
    """Commands to type, in order."""
    changed = launches and launches[-1].dirty
    more = f"; {folder.provenance.name} keeps what was changed in it, as a diff" if changed else ""
    found = [Step(f"The code and what it needs{more}", tuple(_checkout(launches)))]
    typed = tuple(dict.fromkeys(launch.command for launch in launches if launch.command))
    if typed:
        found.append(Step("The cells (those that are done are not run again)", typed))
    found.append(Step("Theory, checked layer by layer", (on_sweep(folder, "check"),)))
    found.append(Step("The figures as PDF, SVG and PNG", (on_sweep(folder, "figures"),)))
    found.append(Step("This page", (on_sweep(folder, "report"),)))
    return found


def _checkout(launches: Sequence[Launch]) -> list[str]:
    commits = list(dict.fromkeys(launch.commit for launch in launches))
    known = [commit for commit in commits if commit != "unknown"]
    return [*(f"git checkout {commit}" for commit in known[-1:]), "make setup"]
