"""A typical training script: a Dataset, a DataLoader, an nn.Module, Hydra."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import hydra
import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

MEAN, STD = 0.1307, 0.3081  # of MNIST's pixels
INITS: dict[str, Callable[[Tensor], Tensor]] = {
    "he_normal": nn.init.kaiming_normal_,
    "he_uniform": nn.init.kaiming_uniform_,
    "xavier_normal": nn.init.xavier_normal_,
    "xavier_uniform": nn.init.xavier_uniform_,
}
log = logging.getLogger(__name__)


class Mnist(Dataset[tuple[Tensor, int]]):
    """MNIST in memory as bytes; each item is converted to normalized floats."""

    def __init__(self, root: Path, split: str) -> None:
        images = np.fromfile(root / f"{split}-images-idx3-ubyte", np.uint8)[16:]
        self.images = torch.from_numpy(images).view(-1, 1, 28, 28)
        self.labels = np.fromfile(root / f"{split}-labels-idx1-ubyte", np.uint8)[8:]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = (self.images[index].float() / 255 - MEAN) / STD
        return image, int(self.labels[index])


class Net(nn.Module):
    """A convolution, a max-pool and a linear layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 3, padding=1)
        self.fc1 = nn.Linear(channels * 14 * 14, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        return self.fc1(x.flatten(1))


def make_net(channels: int, init: str, seed: int) -> Net:
    """Return a network with random weights and zero biases."""
    torch.manual_seed(seed)
    net = Net(channels)
    for layer in (net.conv1, net.fc1):
        INITS[init](layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return net


def train(
    root: Path, n_train: int, n_test: int, channels: int, batch_size: int,
    init: str, lr: float, seed: int,
) -> float:  # fmt: skip
    """Train one network for one epoch; return its accuracy on the test images."""
    net = make_net(channels, init, seed)
    train_set = Subset(Mnist(root / "mnist", "train"), range(n_train))
    test_set = Subset(Mnist(root / "mnist", "t10k"), range(n_test))
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)

    net.train()
    for images, labels in DataLoader(train_set, batch_size, shuffle=True, drop_last=True):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()

    net.eval()
    correct = 0
    with torch.no_grad():
        for images, labels in DataLoader(test_set, batch_size):
            correct += int((net(images).argmax(1) == labels).sum())
    return correct / len(test_set)


@hydra.main(config_path="mnist_conf", config_name="config", version_base="1.3")
def main(config: DictConfig) -> float:
    sizes = (config.n_train, config.n_test, config.channels, config.batch_size)
    root = Path(config.root).expanduser()
    accuracy = train(root, *sizes, config.init, config.lr, config.seed)
    log.info("accuracy %.4f", accuracy)
    return accuracy


if __name__ == "__main__":
    main()
