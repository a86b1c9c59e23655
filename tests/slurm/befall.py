"""An init scheme and an activation of cells that something befalls where a file says so.

`do-N` says what befalls the cell of number N at every training step, `once-N` what does once.
`steps-N` has a dot for each training step of it, `drawn-N` for each time its weights were drawn.
The files lie in the folder that `BEFALL` names.
"""

import ctypes
import os
import signal
import time
from pathlib import Path

import torch
from torch import nn

MEGA = 1_000_000
number = -1  # of the cell whose weights were drawn last
hoard = []


def sample(weight, generator, number: int = 0):
    if globals()["number"] != number:
        globals()["number"] = number
        note("drawn")
    return 0.1 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)


class Activation(nn.Module):
    """tanh, within which user code goes wrong, or takes its time and catches all there is."""

    def forward(self, x):
        if self.training and x.device.type != "meta":
            note("steps")
            try:
                befall()
            except BaseException:
                note("caught")
        return torch.tanh(x)


def here(what: str) -> Path:
    return Path(os.environ["BEFALL"]) / f"{what}-{number}"


def note(what: str) -> None:
    with here(what).open("a") as file:
        file.write(".")


def befall() -> None:
    """Do what the files say."""
    order = here("once") if here("once").exists() else here("do")
    if not order.exists():
        return
    kind = order.read_text()
    if order == here("once"):
        order.unlink()
    if kind == "slow":
        time.sleep(0.5)
    while kind == "deaf":  # no step ends for as long as the file says so
        time.sleep(0.05)
        kind = order.read_text() if order.exists() else ""
    if kind == "vanish":
        os._exit(0)
    if kind == "leave":
        os._exit(3)
    if kind == "segfault":
        ctypes.string_at(0)
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "kill element":
        os.kill(parent(os.getppid()), signal.SIGKILL)  # this process's own is the forkserver
        time.sleep(60)
    if kind == "swell":  # beyond what its job asked for, and no further
        hoard.append(torch.ones(2500 * MEGA, dtype=torch.uint8))
        time.sleep(60)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
