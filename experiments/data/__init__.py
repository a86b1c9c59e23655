"""Data sets: seven sources of images, and a wrapper that subsets, resizes and corrupts them."""

from experiments.data.cifar import Cifar10, Cifar100
from experiments.data.dataset import Data, Dataset, Source, Split
from experiments.data.digits import Digits
from experiments.data.mnist import FashionMnist, Mnist
from experiments.data.synthetic import Gaussian, Shapes
from experiments.data.transforms import Corrupt

__all__ = [
    "Cifar10",
    "Cifar100",
    "Corrupt",
    "Data",
    "Dataset",
    "Digits",
    "FashionMnist",
    "Gaussian",
    "Mnist",
    "Shapes",
    "Source",
    "Split",
]
