"""Fixtures: cached configs, and the torch settings of a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch

from experiments.sweep.worker.limits import prepare_torch

CellConfig = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def cell_config(cell_config: CellConfig) -> CellConfig:
    """Return the `cell_config` of all tests with a cache, because stacks repeat overrides."""
    return cache(cell_config)


@pytest.fixture
def worker_settings() -> Iterator[None]:
    """Run a test with a worker's torch settings: one thread, deterministic algorithms."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    prepare_torch()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(strict)
