"""Init schemes by name: the same names and default arguments as the options of `init=` in conf/."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module

from fanin.errors import ConfigError, suggest
from fanin.inits.data_dependent import Lsuv
from fanin.inits.distributions import (
    Alexnet2012,
    Constant,
    Normal,
    TruncatedNormal,
    Uniform,
    Zeros,
)
from fanin.inits.orthogonal import DeltaOrthogonal, Orthogonal
from fanin.inits.residual import Fixup, SkipInit
from fanin.inits.scheme import Scheme
from fanin.inits.variance_scaling import (
    HeNormal,
    HeUniform,
    LecunNormal,
    LecunUniform,
    PytorchDefault,
    XavierNormal,
    XavierUniform,
)


def _certified() -> Scheme:
    scheme: Scheme = import_module("fanin.theory.prescribe").Certified()  # avoids an import cycle
    return scheme


SCHEMES: Mapping[str, Callable[[], Scheme]] = {
    "alexnet2012": Alexnet2012,
    "certified": _certified,
    "constant": lambda: Constant(0.01),
    "delta_orthogonal": DeltaOrthogonal,
    "fixup": Fixup,
    "he_normal": HeNormal,
    "he_uniform": HeUniform,
    "lecun_normal": LecunNormal,
    "lecun_uniform": LecunUniform,
    "lsuv": Lsuv,
    "normal": lambda: Normal(0.01),
    "orthogonal": Orthogonal,
    "pytorch_default": PytorchDefault,
    "skipinit": SkipInit,
    "truncated_normal": TruncatedNormal,
    "uniform": lambda: Uniform(0.0, 1.0),
    "xavier_normal": XavierNormal,
    "xavier_uniform": XavierUniform,
    "zeros": Zeros,
}


def to_scheme(scheme: Scheme | str) -> Scheme:
    """Convert a name to its scheme; return a scheme unchanged.

    Raises
    ------
    ConfigError
        No scheme has that name (the message lists the nearest names), or the argument has another
        type.

    Examples
    --------
    >>> to_scheme("xavier_uniform")
    XavierUniform(per_group=False)
    """
    if isinstance(scheme, str):
        if scheme not in SCHEMES:
            raise ConfigError(f"init={scheme!r}: no such init; {suggest(scheme, SCHEMES)}")
        return SCHEMES[scheme]()
    if isinstance(scheme, type) or not callable(getattr(scheme, "sample", None)):
        shown = scheme.__name__ if isinstance(scheme, type) else repr(scheme)
        raise ConfigError(
            f"init={shown} is not supported; pass a name such as 'he_normal', an instance of a"
            " scheme such as fanin.inits.HeNormal(), or a fanin.inits.Init"
        )
    return scheme
