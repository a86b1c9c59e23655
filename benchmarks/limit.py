"""The machine's limit: the time of a training step's arithmetic and of its memory traffic.

The counts are lower bounds: a step cannot take less than both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

GEMM_SIDE = 1024
FLOAT = 4  # bytes
MEASURED_SECONDS = 0.05  # of each rate
COUNTS = (
    "FLOPs: two per multiplication of the weight layers, for the products that give the output, "
    "the gradient of the weights and (except in the first layer) the gradient of the input. "
    "Bytes: each of these products reads its two factors and writes its result once, in float32; "
    "the update reads gradients and weights and writes the weights. Everything between two weight "
    "layers counts as free. The limit is the larger of FLOPs / GEMM rate and bytes / bandwidth, "
    f"with the rate of a {GEMM_SIDE}x{GEMM_SIDE} float32 `torch.mm` and the bandwidth of "
    "`torch.add(a, b, out=c)` on three tensors that together have as many bytes as the step moves "
    "(at most 1 GiB), both on one thread and measured in the same rounds."
)


@dataclass(frozen=True)
class StepCost:
    """Arithmetic and memory traffic of one training step."""

    flops: int
    bytes: int
    parameters: int


def step_cost(network: nn.Module, shape: tuple[int, ...], batch_size: int) -> StepCost:
    """Count the FLOPs and bytes of a step (see `COUNTS`), from the shapes of the layers.

    Examples
    --------
    >>> step_cost(nn.Sequential(nn.Flatten(), nn.Linear(6, 2, bias=False)), (6,), 5)
    StepCost(flops=240, bytes=560, parameters=12)
    """
    layers: list[tuple[nn.Module, Tensor, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda m, x, y: layers.append((m, x[0], y)))
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        network(torch.zeros(batch_size, *shape))
    for hook in hooks:
        hook.remove()
    flops = traffic = 0
    for number, (layer, x, y) in enumerate(layers):
        weight = layer.weight
        assert isinstance(weight, Tensor)
        product = 2 * y.numel() * prod(weight.shape[1:])
        n_products = 2 if number == 0 else 3
        flops += n_products * product
        # Each product has two of (x, y, weight) as factors and the third one as its result.
        traffic += n_products * (x.numel() + y.numel() + weight.numel())
    parameters = sum(p.numel() for p in network.parameters())
    return StepCost(flops, FLOAT * (traffic + 3 * parameters), parameters)


def gemm_rate() -> float:
    """Return the FLOPs per second of a large matrix product."""
    a, b, c = (torch.ones(GEMM_SIDE, GEMM_SIDE) for _ in range(3))
    return 2 * GEMM_SIDE**3 / _seconds(lambda: torch.mm(a, b, out=c))


def bandwidth(n_bytes: int) -> float:
    """Return the bytes per second of a sum of two tensors; the three tensors have `n_bytes`."""
    size = max(min(n_bytes, 1 << 30) // (3 * FLOAT), 1)
    a, b, c = torch.ones(size), torch.ones(size), torch.empty(size)
    return 3 * FLOAT * size / _seconds(lambda: torch.add(a, b, out=c))


def _seconds(action: Callable[[], object]) -> float:
    """Return the mean CPU seconds of an action, repeated for `MEASURED_SECONDS`."""
    action()
    count, elapsed, started = 0, 0.0, time.process_time()
    while elapsed < MEASURED_SECONDS:
        action()
        count, elapsed = count + 1, time.process_time() - started
    return elapsed / count
