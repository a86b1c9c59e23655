"""Fixtures that turn command lines into cells, with every option composed once."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from fault_rows import Record, faults, write_page
from hydra.core.config_loader import ConfigLoader
from sweep_process import FAULTY, Site, make_site

from experiments.config.catalog import ConfigCatalog, config_loader
from experiments.sweep.cli import check_command, compose_catalog, run_command
from experiments.sweep.expand import expand
from experiments.sweep.grid import make_grids
from experiments.sweep.overrides import parse_arguments
from experiments.sweep.types import PlannedCell

Cells = Callable[..., list[PlannedCell]]


@pytest.fixture(scope="session")
def loader() -> ConfigLoader:
    return config_loader()


@pytest.fixture(scope="session")
def catalog(loader: ConfigLoader) -> ConfigCatalog:
    return compose_catalog(loader, "config", ())


@pytest.fixture(scope="session")
def cells_of(loader: ConfigLoader, catalog: ConfigCatalog) -> Cells:
    """Return a function that expands a command line and the YAML of a named sweep into cells."""

    def cells(*arguments: str, named: Mapping[str, Any] | None = None) -> list[PlannedCell]:
        checked = check_command(loader, "config", arguments, multirun=True)
        return expand(catalog, make_grids(parse_arguments(loader, checked), named))

    return cells


@pytest.fixture
def plan_of(loader: ConfigLoader, tmp_path: Any) -> Callable[[Sequence[str]], int]:
    """Return a function that runs a command with `sweep.mode=plan`; it returns the exit status."""

    def plan(arguments: Sequence[str]) -> int:
        checked = check_command(loader, "config", arguments, multirun=True)
        results = f"sweep.results='{tmp_path}/results'"
        return run_command(loader, "config", [*checked, "sweep.mode=plan", results])

    return plan


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Return a folder for sweeps whose cells fail as files in it specify (`troubled.py`)."""
    monkeypatch.setenv("TROUBLED", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    return make_site(tmp_path, FAULTY)


@pytest.fixture(scope="session")
def record() -> Iterator[Record]:
    """Record rows of docs/appendix/faults.md; write the page if WRITE_RELIABILITY is set."""
    rows: dict[str, tuple[str, str]] = {}

    def keep(what: str, first_run: str, second_run: str) -> None:
        assert what in faults()
        rows[what] = first_run, second_run

    yield keep
    if os.environ.get("WRITE_RELIABILITY"):
        write_page(rows)
