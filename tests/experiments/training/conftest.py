"""Arithmetic as workers have it."""

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
    """As everywhere, remembering what was asked for: a stack's cells share most of it."""
    return cache(cell_config)


@pytest.fixture
def as_in_workers() -> Iterator[None]:
    """One thread and deterministic algorithms, for the length of a test."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    prepare_torch()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(strict)
