"""What was run: time, machines, versions, code."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.report.launches import Launch
from experiments.sweep.view.status import Status
from experiments.sweep.view.units import duration, several

VERSIONS = ("python", "torch", "numpy")


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
    named = [f"{host} ({several(count, 'cell')})" for host, count in hosts.head(8).items()]
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
    codes = dict(status.codes)
    if not codes and launches:
        codes = {launches[-1].code: 0}
    return "; ".join(_commit(code, count, len(codes) > 1) for code, count in codes.items())


def _commit(code: str, count: int, several_codes: bool) -> str:
    commit, _, digest = code.partition("+")
    clean = f"with uncommitted changes ({digest}; sweep.yaml keeps them)" if digest else "clean"
    cells = f" ({several(count, 'cell')})" if several_codes else ""
    return f"{commit}, {clean}{cells}"


def _minute(when: str) -> str:
    """`2026-11-25 19:52 UTC` of an ISO time."""
    return f"{when[:16].replace('T', ' ')} UTC" if when.endswith("+00:00") else when
