"""Many tests at once: Holm's correction."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike


def holm(p_values: ArrayLike) -> Float64[np.ndarray, " test"]:
    """Adjust p-values so that the chance of any false alarm among all tests keeps its level.

    Valid however the tests depend on each other, as those of one network's layers do.

    Parameters
    ----------
    p_values
        One per test; NaN where no test was made, which counts as none.

    Returns
    -------
    numpy.ndarray
        Adjusted p-values (Holm 1979): reject where they are at most the level. NaN stays.

    Examples
    --------
    >>> [round(float(p), 12) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, float)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    adjusted = np.full(p.shape, np.nan)
    # The smallest of m is multiplied by m, the next by m - 1, ...; none overtakes its follower.
    stepped = np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
