"""Fixtures for all tests."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from experiments.config.catalog import ConfigCatalog, config_loader
from experiments.sweep.expand import expand
from experiments.sweep.overrides import parse_arguments
from experiments.sweep.request import parse_request

CellConfig = Callable[..., dict[str, Any]]

# A shell starts background processes (`make test &`) with SIGINT ignored, and child processes
# inherit that. The tests that send SIGINT would never end.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def cell_config() -> CellConfig:
    """Return a function that makes a cell's coerced config from command-line overrides."""
    loader = config_loader()
    space = ConfigCatalog(loader, "config")

    def config_of(*overrides: str) -> dict[str, Any]:
        request = parse_request(space, parse_arguments(loader, list(overrides)))
        (cell,) = expand(space, request.grids)
        return cell.config

    return config_of
