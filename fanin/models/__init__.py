"""Models: each a frozen dataclass of its knobs that builds a sequence of named layers."""

from fanin.models.alexnet import AlexNet
from fanin.models.dropout import SeededDropout, dropout_masks
from fanin.models.fitnet4 import FitNet4
from fanin.models.linear import Linear
from fanin.models.mlp import Mlp
from fanin.models.norms import MeanOnly
from fanin.models.plain import Plain
from fanin.models.sequence import Activation, ImageShape, Model
from fanin.models.two_layer import TwoLayer

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
