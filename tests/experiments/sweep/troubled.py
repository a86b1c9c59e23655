"""An init scheme and an activation that wait or fail as the content of a folder specifies.

The file `hold-N` makes cell N wait while its weights are drawn. The content of `trouble-N` is the
failure to trigger there, and that of `step-N` (`late-N`) the failure in its third (two thousandth)
training step, alone or in a stack. The environment variable `TROUBLED` is the folder of the files.
"""

import ctypes
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

STEPS = {"step": 3, "late": 2000}
MEBI = 1 << 20
drawn: list[int] = []  # cells drawn since the last training
kept: list[torch.Tensor] = []  # never freed
forwards = 0  # training passes since then


def sample(weight, generator, number: int = 0):
    global forwards
    if forwards:
        drawn.clear()
        forwards = 0
    if number not in drawn:
        drawn.append(number)
    folder = Path(os.environ["TROUBLED"])
    with (folder / f"ran-{number}").open("a") as file:
        file.write(".")
    wait_while(folder / f"hold-{number}")
    trigger_failure(folder / f"trouble-{number}", number)
    return 0.1 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)


class Activation(nn.Module):
    """tanh that triggers failures during training."""

    def forward(self, x):
        global forwards
        if self.training and x.device.type != "meta":
            forwards += 1
            for when in (name for name, step in STEPS.items() if step == forwards):
                for number in drawn:
                    trigger_failure(Path(os.environ["TROUBLED"]) / f"{when}-{number}", number)
        return torch.tanh(x)


def trigger_failure(order: Path, number: int) -> None:
    """Trigger the failure that a file names; write this process's number to `at-N` first."""
    if not order.exists():
        return
    kind = order.read_text()
    at = order.with_name(f".at-{number}")
    at.write_text(str(os.getpid()))
    at.replace(order.with_name(f"at-{number}"))
    if kind == "raise":
        raise ValueError(f"no luck with {number}")
    if kind == "memory":
        raise MemoryError("all full")
    if kind == "interrupt":
        raise KeyboardInterrupt
    if kind == "exit":
        sys.exit(3)
    if kind == "vanish":
        os._exit(0)
    if kind == "leave":
        os._exit(3)
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "segfault":
        ctypes.string_at(0)
    if kind == "allocate":
        hoard = []
        while True:
            hoard.append(torch.ones(64 * MEBI, dtype=torch.uint8))
    if kind == "leak":
        with suppress(RuntimeError):
            while True:
                kept.append(torch.ones(64 * MEBI, dtype=torch.uint8))
        while True:  # the last bytes too
            kept.append(torch.ones(1))
    if kind == "hold":
        wait_while(order)
    if kind == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ctypes.CDLL(None).pause()
    if kind == "hang with the GIL":
        ctypes.PyDLL(None).pause()
    if kind == "fork" and os.fork() == 0:
        wait_while(order)  # holds all inherited files
        os._exit(0)


def wait_while(hold: Path) -> None:
    while hold.exists():
        time.sleep(0.01)
