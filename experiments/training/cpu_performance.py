"""Optimizations of training on a CPU: memory format, layer order, in-place ReLU, malloc settings.

Only the memory format changes results (by rounding); the others are bit-identical.
"""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from functools import cache

import torch
from torch import Tensor, nn

# Parameters of glibc's mallopt (malloc.h).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MAX_INT = 2**31 - 1
MMAP_THRESHOLD = 2**28  # bytes; larger tensors are returned to the system when they are freed

# Input channels from which convolutions are faster in the contiguous format. They usually have
# small maps: oneDNN takes 1.4 (256 channels) to 2.2 times as long (512) in the channels-last format
# for batches of 32 maps of 4x4 and 2x2, and as long for maps of 8x8.
WIDE = 256


def memory_format(
    model: nn.Module, dtype: torch.dtype, device: torch.device
) -> torch.memory_format:
    """Return the memory format of images that is fastest for training a single network.

    On a CPU with AVX-512, convolutions take 0.4 to 1 times as long in the channels-last format, in
    dtypes that oneDNN supports; with AVX2 they take about the same time in both formats. torch's
    max-pool is vectorized over channels only in that format. Layers keep the memory format of their
    input; `optimized` changes it in wide networks. A user's module may call `view`, which needs
    contiguous images.
    """
    if not has_only_known_layers(model):
        return torch.contiguous_format
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    if device.type != "cpu" or dtype == torch.float64 or not convolutions:
        return torch.contiguous_format
    # With AVX2, oneDNN (torch 2.13) corrupts memory in the backward pass of such a convolution.
    if any(
        max(layer.stride) > max(layer.kernel_size) and layer.in_channels % 8
        for layer in convolutions
    ):
        return torch.contiguous_format
    return torch.channels_last


def has_only_known_layers(model: nn.Module) -> bool:
    """Return True if all layers are from torch or fanin."""
    packages = {type(layer).__module__.partition(".")[0] for layer in model.modules()}
    return packages <= {"torch", "fanin"}


def optimized(model: nn.Module) -> nn.Module:
    """Return a faster sequence of the model's layers, with the same parameter names.

    * Each ReLU is swapped with a max-pool that follows it. ReLU is monotonic, so both orders give
      bit-identical outputs. The gradients are identical too: the orders differ only for windows
      without positive inputs, where the gradient is 0. After a 2x2 pool, ReLU has a quarter of the
      values to process, which takes less memory traffic.
    * Images become contiguous before the first wide convolution.

    Other models than sequences are returned unchanged. Probes and diagnoses use the original model.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    >>> list(dict(optimized(model).named_children()))
    ['0', '2', '1', '3']
    """
    if type(model) is not nn.Sequential:
        return model
    layers = list(model.named_children())
    for index in range(len(layers) - 1):
        first, second = layers[index : index + 2]
        if type(first[1]) is nn.ReLU and type(second[1]) is nn.MaxPool2d:
            layers[index : index + 2] = [second, first]
    wide = (index for index, (_, layer) in enumerate(layers) if _has_wide_convolution(layer))
    if (first_wide := next(wide, None)) is not None:
        layers.insert(first_wide, ("contiguous", Contiguous()))
    return nn.Sequential(OrderedDict(layers))


def _has_wide_convolution(layer: nn.Module) -> bool:
    convolutions = (module for module in layer.modules() if isinstance(module, nn.Conv2d))
    return any(convolution.in_channels >= WIDE for convolution in convolutions)


# Their backward passes do not read their outputs.
OVERWRITABLE = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.MaxPool2d)


def overwrite_in_relus(model: nn.Module) -> None:
    """Let each ReLU that follows one of `OVERWRITABLE` in a sequence write to its input.

    The results are bit-identical; there is less memory traffic.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Tanh(), nn.ReLU())
    >>> overwrite_in_relus(model)
    >>> model[1], model[3]
    (ReLU(inplace=True), ReLU())
    """
    for sequence in [m for m in model.modules() if type(m) is nn.Sequential]:
        for index in range(1, len(sequence)):
            if type(sequence[index]) is nn.ReLU and type(sequence[index - 1]) in OVERWRITABLE:
                sequence[index] = nn.ReLU(inplace=True)  # the old one may be used elsewhere too


class Contiguous(nn.Module):
    """Conversion to the contiguous memory format."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, converted if it is not contiguous."""
        return x.contiguous()


@cache
def keep_freed_memory() -> None:
    """Make glibc keep freed memory in this process (no effect with another C library).

    By default glibc returns the memory of a step's tensors to the system, and the next step gets it
    again page by page. For two_layer with 32 channels that is a third of the time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)
        mallopt(M_TRIM_THRESHOLD, MAX_INT)
