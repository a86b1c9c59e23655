"""How to make a sweep, its figures and its page again: the commands, in order."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.report.launches import Launch
from experiments.sweep.store.paths import SweepFolder


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
    """What to type, in order."""
    changed = launches and launches[-1].dirty
    more = f"; {folder.provenance.name} keeps what was changed in it, as a diff" if changed else ""
    found = [Step(f"The code and what it needs{more}", tuple(_code(launches)))]
    typed = tuple(dict.fromkeys(launch.command for launch in launches if launch.command))
    if typed:
        found.append(Step("The cells (those that are done are not run again)", typed))
    found.append(Step("Theory, checked layer by layer", (on_sweep(folder, "check"),)))
    found.append(Step("The figures as PDF, SVG and PNG", (on_sweep(folder, "figures"),)))
    found.append(Step("This page", (on_sweep(folder, "report"),)))
    return found


def _code(launches: Sequence[Launch]) -> list[str]:
    commits = list(dict.fromkeys(launch.commit for launch in launches))
    known = [commit for commit in commits if commit != "unknown"]
    return [*(f"git checkout {commit}" for commit in known[-1:]), "make setup"]
