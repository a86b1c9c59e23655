"""By how much an error of a second moment grows on its way to the next layer."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, log, nan

import torch

from fanin.theory.layer_kind import UnpredictableLayer
from fanin.theory.layers import NamedLayer
from fanin.theory.mean_field import unit_moments

STEP = 1e-3  # of log q: the second difference is below 1e-6, quadrature's noise below 1e-7


def log_sensitivity(after: Sequence[NamedLayer], mean: float, var: float) -> float:
    """d log E[x^2] / d log q of what follows a weight layer, by a symmetric difference.

    1 for rectifiers, below 1 for saturating activations, above 1 for GELU and SiLU at He's gain:
    there a relative error, of any origin, is amplified layer by layer (THEORY.md, section 2.3).

    Parameters
    ----------
    after
        The modules up to the next weight layer; pooling counts for nothing here.
    mean, var
        Of the pre-activation.

    Returns
    -------
    float
        NaN where the moments are 0 or not finite, or a module has no formula.

    Examples
    --------
    >>> from torch import nn
    >>> round(log_sensitivity([NamedLayer.of("act", nn.ReLU())], 0.0, 3.0), 6)
    1.0
    >>> log_sensitivity([NamedLayer.of("act", nn.GELU())], 0.0, 0.1) > 1.1
    True
    """
    if not (isfinite(mean) and isfinite(var) and mean**2 + var > 0):
        return nan
    scales = torch.tensor([-STEP, STEP], dtype=torch.float64).exp()
    try:
        low, high = unit_moments(after, mean * scales.sqrt(), var * scales).m2.tolist()
    except UnpredictableLayer:
        return nan
    if not (0 < low < float("inf") and 0 < high < float("inf")):
        return nan
    return (log(high) - log(low)) / (2 * STEP)
