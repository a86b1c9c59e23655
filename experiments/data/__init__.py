"""Images as tensors: seven sources, and the wrapper that subsets, resizes and corrupts them.

Files are looked for, verified and if need be fetched by `files`, `content` and `download`.
"""

from experiments.data.cifar import Cifar10, Cifar100
from experiments.data.corrupt import Corrupt
from experiments.data.data import Data
from experiments.data.dataset import Dataset, Source, Split
from experiments.data.digits import Digits
from experiments.data.gaussian import Gaussian
from experiments.data.mnist import FashionMnist, Mnist
from experiments.data.shapes import Shapes

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
