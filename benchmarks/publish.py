"""Write docs/performance.md, its plots, and docs/appendix/performance.md from stored results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import seaborn as sns

from analysis.figures.style import use_style
from benchmarks.measure import ROOT
from benchmarks.page import markdown
from benchmarks.registry import NAMED_ONLY, SECTIONS, load_section
from benchmarks.results import QUIET_LOAD, Result, read_results
from fanin.errors import FaninError

DOCS = ROOT / "docs"
TITLES = {
    "sweep": "Whole sweeps",
    "overhead": "Overhead of a sweep",
    "training": "Training",
    "engines": "Stacked training",
    "probing": "Probing",
    "certificate": "Certificate",
    "slurm": "On Slurm",
    "report_page": "The report",
}
"""Titles of the sections, in the order of the pages: what most users ask first."""
CAPTIONS = {
    "sweep": "Time of a whole sweep with other tools, relative to fanin.",
    "overhead": "Time of each operation against the number of cells.",
    "training": "Speed of fanin's training step relative to plain loops, by model.",
    "engines": "Speed of stacked relative to serial training against the number of cells.",
    "probing": "Time of probing relative to training, by model.",
    "certificate": "Time of certify and of drawing networks by depth, width and image side.",
}
GENERATED = "<!-- Written by `python -m benchmarks --page` from benchmarks/results/. -->"
METHOD = """\
Every comparison is a ratio of two times from one run: the competitors run in turn, in one or more
rounds (*n*), and each round gives a ratio. Tables show the median, and the smallest and largest
ratio in parentheses if *n* is larger than 1. Times of training, probing and certificates are CPU
times of processes with one thread; those of whole commands are elapsed times. Machine: {machines}.
Measure on your own, idle machine{duration}:

    python -m benchmarks --quick
    python -m benchmarks --full --write     # also updates this page"""


def write_pages(folder: Path, docs: Path = DOCS) -> list[Path]:
    """Write both pages and the plots from the results in a folder.

    Raises
    ------
    FaninError
        The folder has no results.
    """
    results = read_results(folder, (*SECTIONS, *NAMED_ONLY))
    ordered = {name: results[name] for name in TITLES if name in results}
    if not ordered:
        raise FaninError(f"{folder}: no results; measure with python -m benchmarks --quick --write")
    pages = {
        docs / "performance.md": short_page(ordered),
        docs / "appendix" / "performance.md": long_page(ordered),
    }
    for path, text in pages.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return [*pages, *write_plots(ordered, docs / "figures")]


def short_page(results: Mapping[str, Result]) -> str:
    """Return docs/performance.md: the answers, then a small table and a plot for each section."""
    code = main_code(results)
    answers = [
        f"- {load_section(name).answer(result.records)}{origin(result, code)}"
        for name, result in results.items()
    ]
    parts = [f"{GENERATED}\n\n# Performance", "\n".join(answers)]
    if warning := preliminary(results):
        parts.append(warning)
    minutes = full_minutes(results)
    duration = "" if minutes is None else f" (`--full` took {minutes} minutes for this page)"
    machines = " and ".join(dict.fromkeys(result.machine for result in results.values()))
    parts += [
        METHOD.format(duration=duration, machines=machines),
        "[All measurements](appendix/performance.md): tables, methods, versions.",
    ]
    for name, result in results.items():
        table = load_section(name).short_table(result.records)
        if table is not None:
            parts += [f"## {TITLES[name]}", markdown(table)]
            parts.append(f"![{CAPTIONS[name]}](figures/performance_{name}.png)")
    parts.append("[Check a GPU](gpu.md) measures both [engines](sweeps.md#engines) on a GPU.")
    return "\n\n".join(parts) + "\n"


def long_page(results: Mapping[str, Result]) -> str:
    """Return docs/appendix/performance.md: all tables, with command, machine and versions."""
    parts = [
        f"{GENERATED}\n\n# Measured performance",
        "[Performance](../performance.md) has the most important numbers. Each section states its "
        "command, machine and versions; *load* is the machine's load average over one minute, "
        "before the command and after the section. Numbers in parentheses are the smallest and "
        "largest value.",
    ]
    code = main_code(results)
    for name, result in results.items():
        parts += [f"## {TITLES[name]}", source(result)]
        if result.code != code:
            parts.append(
                f"Most sections were measured at another commit ({code}). "
                f"`python -m benchmarks --full --write {name}` measures this section now."
            )
        parts += [markdown(table) for table in load_section(name).tables(result.records)]
    return "\n\n".join(parts) + "\n"


def source(result: Result) -> str:
    """Return the sentence that names command, day, machine and versions."""
    before, after = result.load
    load = f"{before:.1f}" if after is None else f"{before:.1f} to {after:.1f}"
    duration = "" if result.seconds is None else f" in {result.seconds:.0f} s"
    return (
        f"Measured by `{result.command}`{duration}, {result.date}: {result.machine}, load {load};\n"
        f"{result.versions}."
    )


def main_code(results: Mapping[str, Result]) -> str:
    """Return the version of the code that measured most sections."""
    return Counter(result.code for result in results.values()).most_common(1)[0][0]


def origin(result: Result, code: str) -> str:
    """Return commit, day and load of a result of another version of the code, else ""."""
    if result.code == code:
        return ""
    commit, day, load = result.code, result.date, result.load[0]
    return f" (Measured at another commit: {commit}, {day}, load average {load:.1f}.)"


def full_minutes(results: Mapping[str, Result]) -> int | None:
    """Return the duration of `--full` without section names; None if it is unknown."""
    code = main_code(results) if results else ""
    chosen = [results.get(name) for name in SECTIONS]
    seconds = [
        result.seconds
        for result in chosen
        if result is not None and (result.mode, result.code) == ("full", code)
    ]
    known = [value for value in seconds if value is not None]
    return round(sum(known) / 60) if len(known) == len(SECTIONS) else None


def preliminary(results: Mapping[str, Result]) -> str:
    """Return a warning if results are from a small, disturbed or older run, else ""."""
    modes = sorted({result.mode for result in results.values()} - {"full"})
    load = max((result.load[0] for result in results.values()), default=0.0)
    reasons = []
    if modes:
        reasons.append(f"from a {' and a '.join(modes)} run with few repetitions")
    if load > QUIET_LOAD:
        reasons.append(f"from a run beside other programs (load average up to {load:.1f})")
    if len({result.code for result in results.values()}) > 1:
        reasons.append("from several versions of the code")
    if not reasons:
        return ""
    named = " ".join(results) if set(results) & set(NAMED_ONLY) else ""
    return (
        f"**Preliminary.** Numbers on this page are {', '.join(reasons)}. "
        f"`{f'python -m benchmarks --full --write {named}'.rstrip()}` on an idle machine replaces "
        "them."
    )


def write_plots(results: Mapping[str, Result], folder: Path) -> list[Path]:
    """Draw the plot of each section that has one; return the files."""
    use_style()
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in CAPTIONS:
        if name in results:
            figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
            load_section(name).draw(results[name].records, axes)
            sns.despine(figure)
            paths.append(folder / f"performance_{name}.png")
            figure.savefig(paths[-1], dpi=150, metadata={"Software": None})
            plt.close(figure)
    return paths
