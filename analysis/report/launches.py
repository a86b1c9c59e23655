"""What was asked, each time that a sweep was launched: the documents of `sweep.yaml`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import yaml

from experiments.sweep.store.paths import SweepFolder


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
        """Whether the code differed from its commit."""
        return "+" in self.code

    @property
    def command(self) -> str:
        """What was typed, but for where Python lies."""
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
