"""The real MNIST, Fashion-MNIST and CIFAR-10 have their published statistics."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from experiments.data import Cifar10, Data, Dataset, FashionMnist, Mnist
from experiments.scaling import Scaling, Standardize

DEBIAN = Path("/usr/share/datasets/fashion-mnist")

ROUNDING = 5e-6
"""Rounding error of published values with five decimals; CIFAR's have six."""


@pytest.fixture(scope="module")
def mnist(real_root: str) -> Dataset:
    return Data(Mnist(), root=real_root, download=False).load()


@pytest.fixture(scope="module")
def cifar10(real_root: str) -> Dataset:
    return Data(Cifar10(), root=real_root, download=False).load()


def moments(data: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    fitted = Scaling(Standardize()).fit(data.train.x, data.full_scale)
    return fitted.center.flatten() / 255, fitted.spread.flatten() / 255


@pytest.mark.realdata
def test_mnist_has_its_published_moments(mnist: Dataset) -> None:
    mean, std = moments(mnist)
    assert abs(mean.item() - 0.13066) <= ROUNDING
    assert abs(std.item() - 0.30811) <= ROUNDING


@pytest.mark.realdata
def test_mnist_has_its_published_sizes(mnist: Dataset) -> None:
    assert mnist.train.x.shape == (60_000, 1, 28, 28)
    assert mnist.test.x.shape == (10_000, 1, 28, 28)
    assert mnist.train.y[:5].tolist() == [5, 0, 4, 1, 9]


@pytest.mark.realdata
def test_cifar10_has_its_published_moments(cifar10: Dataset) -> None:
    mean, std = moments(cifar10)
    published_mean = torch.tensor([0.491400, 0.482158, 0.446531], dtype=torch.float64)
    published_std = torch.tensor([0.247032, 0.243485, 0.261588], dtype=torch.float64)
    assert (mean - published_mean).abs().max() <= ROUNDING / 10
    assert (std - published_std).abs().max() <= ROUNDING / 10


@pytest.mark.realdata
def test_cifar10_has_its_published_labels_and_first_pixel(cifar10: Dataset) -> None:
    assert cifar10.train.y.bincount().tolist() == [5000] * 10
    assert cifar10.test.y.bincount().tolist() == [1000] * 10
    assert cifar10.train.y[:2].tolist() == [6, 9]
    assert cifar10.train.x[0, :, 0, 0].tolist() == [59, 62, 63]


@pytest.mark.realdata
def test_all_cifar10_images_differ(cifar10: Dataset) -> None:
    images = torch.cat([cifar10.train.x, cifar10.test.x]).flatten(1).numpy()
    assert len({image.tobytes() for image in images}) == 60_000


@pytest.mark.realdata
def test_a_subset_of_mnist_is_stratified(mnist: Dataset, real_root: str) -> None:
    subset = Data(Mnist(), n_train=1000, n_test=10, root=real_root, download=False).load()
    expected = mnist.train.y.bincount() / 60
    assert (subset.train.y.bincount() - expected).abs().max() < 1
    assert subset.test.y.bincount().tolist() == [1] * 10


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="apt install dataset-fashion-mnist")
def test_debians_fashion_mnist_has_its_published_moments(tmp_path: Path) -> None:
    data = Data(FashionMnist(), root=str(tmp_path), download=False).load()
    mean, std = moments(data)
    assert abs(mean.item() - 0.2860) <= 5e-5
    assert abs(std.item() - 0.3530) <= 5e-5
    assert data.train.y.bincount().tolist() == [6000] * 10
