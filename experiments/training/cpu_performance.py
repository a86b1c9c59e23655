"""Three ways in which training runs faster on a CPU: memory format, layer order, malloc.

The first changes roundings, so every engine decides it in the same place; the others change no bit.
"""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from functools import cache

import torch
from torch import nn

# Parameters of glibc's mallopt (malloc.h).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MAX_INT = 2**31 - 1
MMAP_FROM = 2**28  # bytes; a tensor larger than this still goes back to the system when it is freed


def memory_format(
    model: nn.Module, dtype: torch.dtype, device: torch.device
) -> torch.memory_format:
    """Return the memory format of images in which a single network trains fastest.

    On a CPU torch's max-pool goes through a map number by number, but through channels that lie
    side by side vector by vector; convolutions take about as long either way, in the types that
    oneDNN supports. A convolution, and what follows it, keeps the format of its input.
    """
    has_pool = any(isinstance(layer, nn.MaxPool2d) for layer in model.modules())
    if device.type == "cpu" and dtype != torch.float64 and has_pool:
        return torch.channels_last
    return torch.contiguous_format


def swap_relu_maxpool(model: nn.Module) -> nn.Module:
    """Return the model's own layers, with every max-pool that follows a ReLU before it.

    A ReLU is monotonic, so its largest output is its output at the largest input, to the bit. So
    is the gradient: where the order matters, which is among inputs that are not positive, it is 0.
    Behind a 2x2 pool a quarter of the numbers is left, forward and backward, and time on a CPU is
    memory traffic. Probes and diagnoses see the model as it was declared.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    >>> list(dict(swap_relu_maxpool(model).named_children()))
    ['0', '2', '1', '3']
    """
    if type(model) is not nn.Sequential:
        return model
    layers = list(model.named_children())
    for place in range(len(layers) - 1):
        first, second = layers[place : place + 2]
        if type(first[1]) is nn.ReLU and type(second[1]) is nn.MaxPool2d:
            layers[place : place + 2] = [second, first]
    return nn.Sequential(OrderedDict(layers))


@cache
def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, if its C library is glibc.

    By default a step's tensors go back to the system at its end, and come again page by page: for
    two_layer with 32 channels a third of the time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, MMAP_FROM)
        mallopt(M_TRIM_THRESHOLD, MAX_INT)
