"""Init schemes: each declared once, sampled by the lab and read as moments by the theory.

One file per family. `Init` is the config group: a scheme with gain, biases and overrides.
"""

from fanin.inits.alexnet2012 import Alexnet2012
from fanin.inits.constant import Constant, Zeros
from fanin.inits.glorot import XavierNormal, XavierUniform
from fanin.inits.he import HeNormal, HeUniform
from fanin.inits.init import Init
from fanin.inits.initialize import initialize
from fanin.inits.layer_init import LayerInit, NormalBias
from fanin.inits.layers import LayerPlace, weight_layers
from fanin.inits.lecun import LecunNormal, LecunUniform
from fanin.inits.lsuv import Lsuv
from fanin.inits.normal import Normal
from fanin.inits.orthogonal import DeltaOrthogonal, Orthogonal
from fanin.inits.pytorch_default import PytorchDefault
from fanin.inits.scheme import (
    CalibratedScheme,
    FunctionScheme,
    Scheme,
    coerce_scheme,
    scheme_from_config,
)
from fanin.inits.truncated_normal import TruncatedNormal
from fanin.inits.uniform import Uniform
from fanin.inits.weight_shape import Fan, Moments, WeightLayer, WeightShape

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
