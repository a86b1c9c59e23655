"""Devices that packs can run on, and their memory."""

from __future__ import annotations

import os

import torch

from experiments.sweep.types import GIB
from experiments.sweep.worker.limits import machine_memory
from fanin.errors import ConfigError

DEVICE_SHARE = 0.8  # of a GPU's memory; the rest is for its driver and the allocator


def devices(requested: str) -> list[str]:
    """Return the names of the devices among which workers are divided.

    Raises
    ------
    ConfigError
        This machine has no such device.

    Examples
    --------
    >>> devices("cpu")
    ['cpu']
    """
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if requested == "auto":
        return gpus or ["cpu"]
    if requested == "cuda" and gpus:
        return gpus
    if requested in ("cpu", *gpus):
        return [requested]
    valid = ", ".join(["auto", "cpu", *gpus])
    raise ConfigError(f"runner.device={requested}: no such device on this machine; valid: {valid}")


def available_cores() -> int:
    """Return the number of cores that this process may use (on macOS: all cores)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def worker_memory_bytes(device: str, workers: int, memory_gb: float | None = None) -> int:
    """Return the memory that each of several workers on one device may use, in bytes.

    Parameters
    ----------
    device
        A name from `devices`.
    workers
        Number of workers that share the device.
    memory_gb
        Memory of a worker in GiB, on a CPU only. None: an equal share of the machine's memory.
    """
    if device != "cpu":
        total = torch.cuda.get_device_properties(device).total_memory
        return int(DEVICE_SHARE * total / workers)
    return int(memory_gb * GIB) if memory_gb is not None else machine_memory() // workers
