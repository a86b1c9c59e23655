"""Init schemes: experiments draw weights from them, theories read their mean and variance.

`Init` combines a scheme with a gain, biases and overrides for single layers.
"""

from fanin.inits.by_name import SCHEMES, to_scheme
from fanin.inits.data_dependent import Lsuv
from fanin.inits.distributions import (
    Alexnet2012,
    Constant,
    Normal,
    TruncatedNormal,
    Uniform,
    Zeros,
)
from fanin.inits.init import Init, LayerInit, NormalBias, initialize, set_scalars, to_init
from fanin.inits.orthogonal import DeltaOrthogonal, Orthogonal
from fanin.inits.residual import Fixup, ResidualBranch, SkipInit, residual_branches
from fanin.inits.scheme import (
    CalibratedScheme,
    FunctionScheme,
    GaussianScheme,
    LayerContext,
    Scheme,
    UniformScheme,
)
from fanin.inits.variance_scaling import (
    HeNormal,
    HeUniform,
    LecunNormal,
    LecunUniform,
    PytorchDefault,
    XavierNormal,
    XavierUniform,
)
from fanin.inits.weight_shape import Fan, Moments, WeightLayer, WeightShape, weight_layers

__all__ = [
    "SCHEMES",
    "Alexnet2012",
    "CalibratedScheme",
    "Constant",
    "DeltaOrthogonal",
    "Fan",
    "Fixup",
    "FunctionScheme",
    "GaussianScheme",
    "HeNormal",
    "HeUniform",
    "Init",
    "LayerContext",
    "LayerInit",
    "LecunNormal",
    "LecunUniform",
    "Lsuv",
    "Moments",
    "Normal",
    "NormalBias",
    "Orthogonal",
    "PytorchDefault",
    "ResidualBranch",
    "Scheme",
    "SkipInit",
    "TruncatedNormal",
    "Uniform",
    "UniformScheme",
    "WeightLayer",
    "WeightShape",
    "XavierNormal",
    "XavierUniform",
    "Zeros",
    "initialize",
    "residual_branches",
    "set_scalars",
    "to_init",
    "to_scheme",
    "weight_layers",
]
