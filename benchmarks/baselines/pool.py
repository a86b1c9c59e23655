"""The cells of `baselines/mnist.py` in a pool of one-thread processes; stores no results.

Each worker reads and normalizes the data once. The training step is plain PyTorch, without the
optimizations of `experiments/training/cpu_performance.py`.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.baselines import grid_arguments
from benchmarks.baselines.mnist import MEAN, STD, Mnist, make_net

Pair = tuple[Tensor, Tensor]  # images, labels
_data: dict[str, Pair] = {}


def main() -> None:
    """Train a grid of inits, learning rates and seeds; print the mean accuracy."""
    args = grid_arguments.parser(main.__doc__).parse_args()
    context = multiprocessing.get_context("spawn")
    sizes = (args.root, args.n_train, args.n_test)
    with ProcessPoolExecutor(args.workers, context, _start, sizes) as pool:
        futures = [
            pool.submit(_train, args.channels, args.batch_size, *cell)
            for cell in grid_arguments.cells(args)
        ]
        accuracies = [future.result() for future in futures]
    print(f"accuracy {sum(accuracies) / len(accuracies):.4f} of {len(accuracies)}")


def _start(root: Path, n_train: int, n_test: int) -> None:
    torch.set_num_threads(1)
    for split, size in (("train", n_train), ("t10k", n_test)):
        dataset = Mnist(root / "mnist", split)
        x = (dataset.images[:size].float() / 255 - MEAN) / STD
        y = torch.from_numpy(dataset.labels[:size].astype("int64"))
        _data[split] = x.to(memory_format=torch.channels_last), y


def _train(channels: int, batch_size: int, init: str, lr: float, seed: int) -> float:
    net = make_net(channels, init, seed)
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    x, y = _data["train"]
    for batch in torch.randperm(len(x))[: len(x) // batch_size * batch_size].split(batch_size):
        optimizer.zero_grad()
        F.cross_entropy(net(x[batch]), y[batch]).backward()
        optimizer.step()
    x, y = _data["t10k"]
    with torch.no_grad():
        return float((net(x).argmax(1) == y).double().mean())


if __name__ == "__main__":
    main()
