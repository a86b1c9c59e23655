"""Number of networks that fit on a GPU as one stack, measured from one step of a few of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from experiments.training.engines import StackedEngine, TrainSpec

MEASURED_NETWORKS = 8
# Of the free memory. A captured graph keeps its own pool, and freed blocks leave gaps.
SHARE = 0.7


class DeviceMemory(Protocol):
    """Protocol of a device's memory."""

    def peak(self, action: Callable[[], object]) -> int:
        """Run an action; return the bytes that it needs at most, in addition to those before."""

    def free(self) -> int:
        """Return the bytes that can be allocated."""


class CudaMemory:
    """Memory of a GPU, as torch's allocator counts it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def peak(self, action: Callable[[], object]) -> int:
        """Run an action; return the bytes that it needs at most, in addition to those before."""
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        action()
        torch.cuda.synchronize(self._device)
        return torch.cuda.max_memory_allocated(self._device) - before

    def free(self) -> int:
        """Return the bytes that can be allocated, with those that the allocator holds unused."""
        unused = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(
            self._device
        )
        return torch.cuda.mem_get_info(self._device)[0] + unused


def networks_that_fit(specs: Sequence[TrainSpec], memory: DeviceMemory) -> int:
    """Return the largest number of networks that one stack can have, at least 1.

    Parameters
    ----------
    specs
        The networks. The first of them take a step, which changes nothing.
    memory
        Memory of their device.
    """
    measured = specs[:MEASURED_NETWORKS]

    def take_step() -> None:
        engine = StackedEngine(measured, capture=None)
        engine.step(0 if measured[0].resume is None else measured[0].resume.step)

    peak = max(memory.peak(take_step), 1)
    return max(1, int(SHARE * memory.free() * len(measured) / peak))


def equal_parts(n_networks: int, limit: int) -> list[range]:
    """Divide networks into as few stacks of at most `limit` as possible, of similar sizes.

    Examples
    --------
    >>> equal_parts(10, 4)
    [range(0, 4), range(4, 8), range(8, 10)]
    >>> equal_parts(8, 7)
    [range(0, 4), range(4, 8)]
    """
    n_parts = -(-n_networks // limit)
    size = -(-n_networks // n_parts)
    return [range(start, min(start + size, n_networks)) for start in range(0, n_networks, size)]
