"""How a network's maps lie in memory."""

from __future__ import annotations

import torch
from torch import nn


def layout(model: nn.Module, dtype: torch.dtype, device: torch.device) -> torch.memory_format:
    """The memory format of images in which a network alone runs fastest.

    On a CPU torch's max-pool goes through the numbers of a map one by one, but through channels
    that lie side by side by whole vectors; convolutions take about as long either way, in the
    types that oneDNN has. A convolution, and what follows, keeps the format of its input.
    """
    pools = any(isinstance(layer, nn.MaxPool2d) for layer in model.modules())
    if device.type == "cpu" and dtype != torch.float64 and pools:
        return torch.channels_last
    return torch.contiguous_format
