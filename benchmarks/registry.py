"""Names of the sections of `python -m benchmarks`."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from benchmarks.section import SectionModule

SECTIONS = {
    "training": "a training step of every model, against a plain PyTorch loop and the machine",
    "engines": "serial against stacked training, by model, width and number of cells",
    "probing": "measuring the layers as a share of training, at the default settings",
    "certificate": "time and memory of `certify`, against drawing networks",
    "overhead": "start-up, planning, launch, store, load, status and report of 10 to 100,000 cells",
    "sweep": "whole sweeps on MNIST against Hydra (basic, joblib), submitit and a process pool",
}
"""Sections with their contents, in the order in which they run and appear on the pages."""
NAMED_ONLY = {
    "slurm": "a sweep on a Slurm cluster on this machine, against Hydra's launcher (needs root)",
    "report_page": "the report of 10,000 cells in a browser (needs Chromium)",
}
"""Sections that run only if they are named."""


def load_section(name: str) -> SectionModule:
    """Import the module of a section."""
    return cast(SectionModule, import_module(f"benchmarks.sections.{name}"))


def summaries() -> str:
    """Return a line for each section."""
    lines = [f"  {name:12} {contents}" for name, contents in SECTIONS.items()]
    named = [f"  {name:12} {contents}" for name, contents in NAMED_ONLY.items()]
    return "\n".join([*lines, "sections that run only if they are named:", *named])
