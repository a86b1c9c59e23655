"""Results of a section as JSON, so that the pages can be written again without measuring."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT
from experiments.atomic_write import atomic_write

STORED = ROOT / "benchmarks" / "results"  # results of the pages in docs/
QUIET_LOAD = 0.5  # load average before the command above which other programs distort the times
OUTPUT = ROOT / "outputs" / "benchmarks"  # results of a run without --write


@dataclass(frozen=True)
class Result:
    """Measurements of one section.

    Parameters
    ----------
    section, mode
        Name of the section and its size: tiny, quick or full.
    command
        Command that measured them.
    date, machine, versions
        Day, and descriptions of the machine and of the libraries.
    load
        Load average of the machine over one minute, before the command and (None: unknown) after
        the section.
    seconds
        Duration of the section; None if it is unknown.
    records
        One record per case.
    """

    section: str
    mode: str
    command: str
    date: str
    machine: str
    versions: str
    load: tuple[float, float | None]
    seconds: float | None
    records: list[dict[str, Any]]

    @property
    def code(self) -> str:
        """Version of fanin's code: the commit, and a digest if files differed from it."""
        match = re.search(r"\bfanin ([^\s,]+)", self.versions)
        return "unknown" if match is None else match[1]

    def save(self, folder: Path) -> Path:
        """Write the result to `folder/SECTION.json`, one line per field and per record."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.section}.json"
        fields = asdict(self)
        records = ",\n".join(json.dumps(record) for record in fields.pop("records"))
        lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items()]
        text = ",\n".join([*lines, f'"records": [\n{records}\n]'])
        atomic_write(path, f"{{\n{text}\n}}\n".encode())
        return path


def read_results(folder: Path, sections: Iterable[str]) -> dict[str, Result]:
    """Return the results that exist in a folder, by section."""
    paths = {name: folder / f"{name}.json" for name in sections}
    contents = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    return {
        name: Result(**(content | {"load": tuple(content["load"])}))
        for name, content in contents.items()
    }


def load_average() -> float:
    """Return the load average over the last minute, rounded."""
    return round(os.getloadavg()[0], 2)
