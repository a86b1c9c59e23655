"""Devices and memory that a pack can run on."""

from __future__ import annotations

import os

import torch

from experiments.sweep.worker.limits import GIB, machine_memory
from fanin.errors import ConfigError

DEVICE_SHARE = 0.8  # of a GPU's memory; the rest is its driver's and the allocator's


def devices(asked: str) -> list[str]:
    """Return the devices that workers take turns on.

    Raises
    ------
    ConfigError
        There is no such device here.

    Examples
    --------
    >>> devices("cpu")
    ['cpu']
    """
    graphics = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if asked == "auto":
        return graphics or ["cpu"]
    if asked == "cuda" and graphics:
        return graphics
    if asked in ("cpu", *graphics):
        return [asked]
    there = ", ".join(["auto", "cpu", *graphics])
    raise ConfigError(f"runner.device={asked}: no such device here; valid: {there}")


def available_cores() -> int:
    """Cores that this process may use (macOS can't say, and names all)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def worker_memory_bytes(device: str, workers: int, memory_gb: float | None = None) -> int:
    """Bytes that each of several workers may use: its share of the device's memory.

    Parameters
    ----------
    device
        One of `devices`.
    workers
        How many share it.
    memory_gb
        What is to be taken instead (GiB); on a CPU only.
    """
    if device != "cpu":
        whole = torch.cuda.get_device_properties(device).total_memory
        return int(DEVICE_SHARE * whole / workers)
    return int(memory_gb * GIB) if memory_gb is not None else machine_memory() // workers
