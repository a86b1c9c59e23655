"""Moments of every layer by drawing networks: what people do without a theory.

Each draw initializes the network anew, passes the images forward and a random cotangent backward,
and records E[y²] of each weight layer's output and E[δ²] of its gradient, in float32.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn


def draw_moments(network: nn.Module, images: Tensor, draws: int) -> tuple[Tensor, float]:
    """Draw networks with He's init; return E[y²] per draw and layer, and the CPU seconds."""
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    forward: list[Tensor] = []
    backward: list[Tensor] = []

    def record(module: nn.Module, inputs: object, output: Tensor) -> None:
        forward.append(output.detach().square().mean())
        output.register_hook(lambda gradient: backward.append(gradient.square().mean()))

    hooks = [layer.register_forward_hook(record) for layer in layers]
    moments, started = [], time.process_time()
    for _ in range(draws):
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        forward.clear()
        backward.clear()
        logits = network(images)
        torch.autograd.backward(logits, torch.randn_like(logits))
        moments.append(torch.stack(forward))
    seconds = time.process_time() - started
    for hook in hooks:
        hook.remove()
    return torch.stack(moments), seconds
