"""From words of a command line to cells, in this process and with every option composed once."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from fault_rows import Record, faults, write_page
from hydra.core.config_loader import ConfigLoader
from sweep_process import FAULTY, Site, site

from experiments.config.catalog import ConfigCatalog, config_loader
from experiments.sweep.cli import check_command, run_command, compose_catalog
from experiments.sweep.expand import expand
from experiments.sweep.grid import make_grids
from experiments.sweep.overrides import parse_arguments
from experiments.sweep.types import PlannedCell

Cells = Callable[..., list[PlannedCell]]


@pytest.fixture(scope="session")
def loader() -> ConfigLoader:
    return config_loader()


@pytest.fixture(scope="session")
def space(loader: ConfigLoader) -> ConfigCatalog:
    return compose_catalog(loader, "config", ())


@pytest.fixture(scope="session")
def cells_of(loader: ConfigLoader, space: ConfigCatalog) -> Cells:
    """The cells that a grid's command line, and the YAML of a named sweep, ask for."""

    def cells(*words: str, named: Mapping[str, Any] | None = None) -> list[PlannedCell]:
        checked = check_command(loader, "config", words, multirun=True)
        return expand(space, make_grids(parse_arguments(loader, checked), named))

    return cells


@pytest.fixture
def plan_of(loader: ConfigLoader, tmp_path: Any) -> Callable[[Sequence[str]], int]:
    """Runs a whole command with `sweep.mode=plan`; gives its exit status."""

    def plan(words: Sequence[str]) -> int:
        checked = check_command(loader, "config", words, multirun=True)
        results = f"sweep.results='{tmp_path}/results'"
        return run_command(loader, "config", [*checked, "sweep.mode=plan", results])

    return plan


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A place for sweeps whose cells do what files say, in processes or in this one."""
    monkeypatch.setenv("TROUBLED", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    return site(tmp_path, FAULTY)


@pytest.fixture(scope="session")
def record() -> Iterator[Record]:
    """Keep a fault's row; with WRITE_RELIABILITY set, all rows go to docs/appendix/faults.md."""
    rows: dict[str, tuple[str, str]] = {}

    def keep(what: str, happened: str, again: str) -> None:
        assert what in faults()
        rows[what] = happened, again

    yield keep
    if os.environ.get("WRITE_RELIABILITY"):
        write_page(rows)
