"""How much memory a network in training takes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from experiments.config.schema import Cell

# Copies of a parameter that a functional step holds at once: old and new ones of itself and of the
# optimizer's two (Adam), its gradient, and what is kept or thrown away at the end of the step.
COPIES = 10
# Copies of what a layer puts out: the output, the gradient that comes back, what it holds within
# itself (local response normalization), and what batched convolutions rearrange.
PASSES = 4


def training_bytes(cell: Cell) -> int:
    """An estimate, meant to be too large, of what one network of a stack takes while it trains.

    Parameters and what every layer puts out for a batch, times the copies that are held of them;
    the data set, which all share, is left out. Nothing is allocated for it (torch's `meta` device).
    """
    size = cell.train.batch_of(cell.data.n_train or cell.data.source.train_size)
    outputs: list[int] = []

    def note(module: nn.Module, inputs: object, output: Tensor) -> None:
        outputs.append(output.numel() * output.element_size())

    with torch.device("meta"), torch.no_grad():
        model = cell.network().to(cell.train.torch_dtype).eval()
        for module in model.modules():
            if not any(module.children()):
                module.register_forward_hook(note)
        x = torch.empty(size, *cell.data.shape, dtype=cell.train.torch_dtype)
        model(x)
    parameters = sum(p.numel() * p.element_size() for p in model.parameters())
    return COPIES * parameters + PASSES * (x.numel() * x.element_size() + sum(outputs))
