"""Models: each a frozen dataclass of its knobs that builds a sequence of named layers."""

from experiments.models.alexnet import AlexNet
from experiments.models.dropout import SeededDropout, dropout_masks
from experiments.models.fitnet4 import FitNet4
from experiments.models.linear import Linear
from experiments.models.mlp import Mlp
from experiments.models.norms import MeanOnly
from experiments.models.plain import Plain
from experiments.models.sequence import Activation, ImageShape, Model
from experiments.models.two_layer import TwoLayer

__all__ = [
    "Activation",
    "AlexNet",
    "FitNet4",
    "ImageShape",
    "Linear",
    "MeanOnly",
    "Mlp",
    "Model",
    "Plain",
    "SeededDropout",
    "TwoLayer",
    "dropout_masks",
]
