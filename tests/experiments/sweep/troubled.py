"""An init scheme and an activation that wait, fail or worse where a file says so.

`hold-N` makes the cell of number N wait while its weights are drawn, `trouble-N` says what befalls
it there, and `step-N` what befalls it in the middle of its third training step (`late-N`: of its
two thousandth), alone or in a stack. The files lie in the folder that `TROUBLED` names.
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
drawn: list[int] = []  # the cells whose weights were drawn since a training last ended
kept: list[torch.Tensor] = []  # for as long as the process lives
forwards = 0  # passes since then


def sample(weight, generator, number: int = 0):
    global forwards
    if forwards:
        drawn.clear()
        forwards = 0
    if number not in drawn:
        drawn.append(number)
    here = Path(os.environ["TROUBLED"])
    with (here / f"ran-{number}").open("a") as file:
        file.write(".")
    wait_while(here / f"hold-{number}")
    suffer(here / f"trouble-{number}", number)
    return 0.1 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)


class Activation(nn.Module):
    """tanh, which in training is where the trouble comes."""

    def forward(self, x):
        global forwards
        if self.training and x.device.type != "meta":
            forwards += 1
            for when in (name for name, step in STEPS.items() if step == forwards):
                for number in drawn:
                    suffer(Path(os.environ["TROUBLED"]) / f"{when}-{number}", number)
        return torch.tanh(x)


def suffer(order: Path, number: int) -> None:
    """Do what a file says, and leave this process's number in `at-N` first."""
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
        while True:  # to the last
            kept.append(torch.ones(1))
    if kind == "hold":
        wait_while(order)
    if kind == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ctypes.CDLL(None).pause()
    if kind == "hang with the GIL":
        ctypes.PyDLL(None).pause()
    if kind == "fork" and os.fork() == 0:
        wait_while(order)  # with everything that it has inherited
        os._exit(0)


def wait_while(hold: Path) -> None:
    while hold.exists():
        time.sleep(0.01)
