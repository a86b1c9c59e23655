"""What tests of every room may use."""

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

# A shell ignores Ctrl-C for what it starts in the background (`make test &`), and processes pass
# that on to those that they start: the tests that press Ctrl-C would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def cell_config() -> CellConfig:
    """Make one cell's coerced config from overrides, as the command line would."""
    loader = config_loader()
    space = ConfigCatalog(loader, "config")

    def config_of(*overrides: str) -> dict[str, Any]:
        request = parse_request(space, parse_arguments(loader, list(overrides)))
        (cell,) = expand(space, request.grids)
        return cell.config

    return config_of
