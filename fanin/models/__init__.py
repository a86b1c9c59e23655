"""Models: frozen dataclasses of options with a `build` method that returns a network."""

from fanin.models.alexnet import AlexNet
from fanin.models.base import Activation, ImageShape, Model
from fanin.models.fitnet4 import FitNet4
from fanin.models.layers import MeanOnly, SeededDropout, dropout_masks
from fanin.models.module import PASSED, ModuleModel, batch_statistics, use_batch_statistics
from fanin.models.resnet import ResidualBlock, ResNet
from fanin.models.scalars import Multiplier, ScalarBias
from fanin.models.simple import Linear, Mlp, Plain, TwoLayer
from fanin.models.vgg import Vgg

__all__ = [
    "PASSED",
    "Activation",
    "AlexNet",
    "FitNet4",
    "ImageShape",
    "Linear",
    "MeanOnly",
    "Mlp",
    "Model",
    "ModuleModel",
    "Multiplier",
    "Plain",
    "ResNet",
    "ResidualBlock",
    "ScalarBias",
    "SeededDropout",
    "TwoLayer",
    "Vgg",
    "batch_statistics",
    "dropout_masks",
    "use_batch_statistics",
]
