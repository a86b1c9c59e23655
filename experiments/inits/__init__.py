"""Init schemes: each declared once, sampled by the lab and read as moments by the theory.

One file per family. `Init` is the config group: a scheme with gain, biases and overrides.
"""

from experiments.inits.alexnet2012 import Alexnet2012
from experiments.inits.constant import Constant, Zeros
from experiments.inits.glorot import XavierNormal, XavierUniform
from experiments.inits.he import HeNormal, HeUniform
from experiments.inits.init import Init
from experiments.inits.initialize import initialize
from experiments.inits.layer_init import LayerInit, NormalBias
from experiments.inits.layers import LayerPlace, weight_layers
from experiments.inits.lecun import LecunNormal, LecunUniform
from experiments.inits.lsuv import Lsuv
from experiments.inits.normal import Normal
from experiments.inits.orthogonal import DeltaOrthogonal, Orthogonal
from experiments.inits.pytorch_default import PytorchDefault
from experiments.inits.scheme import (
    CalibratedScheme,
    FunctionScheme,
    Scheme,
    coerce_scheme,
    scheme_from_config,
)
from experiments.inits.truncated_normal import TruncatedNormal
from experiments.inits.uniform import Uniform
from experiments.inits.weight_shape import Fan, Moments, WeightLayer, WeightShape

__all__ = [
    "Alexnet2012",
    "CalibratedScheme",
    "Constant",
    "DeltaOrthogonal",
    "Fan",
    "FunctionScheme",
    "HeNormal",
    "HeUniform",
    "Init",
    "LayerInit",
    "LayerPlace",
    "LecunNormal",
    "LecunUniform",
    "Lsuv",
    "Moments",
    "Normal",
    "NormalBias",
    "Orthogonal",
    "PytorchDefault",
    "Scheme",
    "TruncatedNormal",
    "Uniform",
    "WeightLayer",
    "WeightShape",
    "XavierNormal",
    "XavierUniform",
    "Zeros",
    "coerce_scheme",
    "initialize",
    "scheme_from_config",
    "weight_layers",
]
