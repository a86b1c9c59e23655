"""Init scheme and activation that inject faults into cells, controlled by files.

The file `always-N` names the fault injected into cell N at every training step, `once-N` a fault
injected once. `steps-N` gets a dot for each training step of the cell, and `draws-N` for each draw
of its weights. The files are in the folder named by the environment variable `FAULT_DIR`.
"""

import ctypes
import os
import signal
import time
from pathlib import Path

import torch
from torch import nn

MEGA = 1_000_000
number = -1  # of the cell that had its weights drawn last
allocated = []


def sample(weight, generator, number: int = 0):
    if globals()["number"] != number:
        globals()["number"] = number
        record("draws")
    return 0.1 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)


class Activation(nn.Module):
    """Tanh that injects the fault, like user code that catches every exception."""

    def forward(self, x):
        if self.training and x.device.type != "meta":
            record("steps")
            try:
                inject_fault()
            except BaseException:
                record("caught")
        return torch.tanh(x)


def fault_file(prefix: str) -> Path:
    return Path(os.environ["FAULT_DIR"]) / f"{prefix}-{number}"


def record(event: str) -> None:
    with fault_file(event).open("a") as file:
        file.write(".")


def inject_fault() -> None:
    path = fault_file("once") if fault_file("once").exists() else fault_file("always")
    if not path.exists():
        return
    kind = path.read_text()
    if path == fault_file("once"):
        path.unlink()
    if kind == "slow":
        time.sleep(0.5)
    if kind == "very slow":  # 2 minutes for a cell
        time.sleep(2)
    while kind == "hang":  # until the file changes
        time.sleep(0.05)
        kind = path.read_text() if path.exists() else ""
    if kind == "exit 0":
        os._exit(0)
    if kind == "exit 3":
        os._exit(3)
    if kind == "segfault":
        ctypes.string_at(0)
    if kind == "kill worker":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "kill array task":
        os.kill(parent(os.getppid()), signal.SIGKILL)  # the parent of a worker is the fork server
        time.sleep(60)
    if kind == "allocate":  # more than the job's memory limit
        allocated.append(torch.ones(2500 * MEGA, dtype=torch.uint8))
        time.sleep(60)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
