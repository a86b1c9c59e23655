"""Small real sweeps that run in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analysis import Results, load
from experiments.config.catalog import config_loader
from experiments.sweep.cli import run_command

SMALL = (
    *("data.side=14", "data.n_train=200", "data.n_test=100", "train.steps=3"),
    *("probe.draws=4", "probe.images=2", "probe.size=2", "runner=inline"),
)


def run_sweep(
    results: Path,
    name: str,
    *overrides: str,
    config_dir: Path | None = None,
    small: Sequence[str] = SMALL,
) -> Results:
    """Run a small sweep in this process and load all of its cells.

    Overrides take precedence over `small`.
    """
    arguments = {text.partition("=")[0]: text for text in (*small, *overrides)}
    target = (f"sweep.results={results}", f"sweep.name={name}")
    loader = config_loader(None if config_dir is None else str(config_dir))
    assert run_command(loader, "config", [*arguments.values(), *target]) == 0
    return load(name, results, all=True)
