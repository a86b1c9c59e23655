"""Data sets: ten sources, and a wrapper that subsets, resizes and corrupts them."""

from experiments.data.arrays import Arrays
from experiments.data.cifar import Cifar10, Cifar100
from experiments.data.dataset import Data, Dataset, Source, Split
from experiments.data.digits import Digits
from experiments.data.features import Features
from experiments.data.image_folder import ImageFolder
from experiments.data.mnist import FashionMnist, Mnist
from experiments.data.synthetic import Gaussian, Shapes
from experiments.data.transforms import Corrupt

__all__ = [
    "Arrays",
    "Cifar10",
    "Cifar100",
    "Corrupt",
    "Data",
    "Dataset",
    "Digits",
    "FashionMnist",
    "Features",
    "Gaussian",
    "ImageFolder",
    "Mnist",
    "Shapes",
    "Source",
    "Split",
]
