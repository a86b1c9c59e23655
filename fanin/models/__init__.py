"""Models: frozen dataclasses of options with a `build` method that returns an `nn.Sequential`."""

from fanin.models.alexnet import AlexNet
from fanin.models.base import Activation, ImageShape, Model
from fanin.models.fitnet4 import FitNet4
from fanin.models.layers import MeanOnly, SeededDropout, dropout_masks
from fanin.models.simple import Linear, Mlp, Plain, TwoLayer

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
