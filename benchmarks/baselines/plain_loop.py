"""The training loop that people write in PyTorch, with all images as float tensors in memory."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

DESCRIPTION = (
    "The plain loop holds all images in memory as normalized float32 tensors, shuffles them with "
    "`torch.randperm` in each epoch, takes a batch as `x[batch]`, and calls `zero_grad`, the "
    "network (an `nn.Sequential` of the same layers), `F.cross_entropy`, `backward` and "
    "`torch.optim.SGD.step`. It reads no loss, records nothing and does not detect divergence. "
    "fanin reads 8-bit images, scales each batch, records the loss of every step and "
    "detects divergence; the time of a run of one step is subtracted from its time. All have one "
    "thread, in processes of their own."
)
FORMATS = (
    "*channels_last* is the plain loop with network and images converted by "
    "`.to(memory_format=torch.channels_last)`. This format stores the channels of a pixel next to "
    "each other, which makes most convolutions on a CPU faster. The loop that people write does "
    "not use it; fanin does. Models without convolutions have only the plain loop. *the faster "
    "loop*: the one with the smaller median time for the model."
)


def load(file: Path) -> tuple[Tensor, Tensor]:
    """Return the training images of an `.npz` file, normalized, and their labels."""
    arrays = np.load(file)
    x = torch.from_numpy(arrays["x"]).float()
    return (x - x.mean()) / x.std(), torch.from_numpy(arrays["y"])


def train_plain(network: nn.Module, x: Tensor, y: Tensor, batch_size: int, steps: int) -> float:
    """Train a network in place on tensors; return the CPU seconds of the loop."""
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)
    network.train()
    started, step = time.process_time(), 0
    while step < steps:
        order = torch.randperm(len(x))[: len(x) // batch_size * batch_size]
        for batch in order.split(batch_size)[: steps - step]:
            optimizer.zero_grad()
            loss = F.cross_entropy(network(x[batch]), y[batch])
            loss.backward()
            optimizer.step()
            step += 1
    return time.process_time() - started
