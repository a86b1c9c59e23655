"""Holm's correction for multiple tests."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike


def holm(p_values: ArrayLike) -> Float64[np.ndarray, " test"]:
    """Adjust p-values for multiple tests (Holm 1979), controlling the family-wise error rate.

    The correction is valid for dependent tests, such as those of the layers of one network.

    Parameters
    ----------
    p_values
        One per test; NaN where no test was made. NaN entries do not count as tests.

    Returns
    -------
    numpy.ndarray
        Adjusted p-values. Reject where they are at most the significance level. NaN entries stay.

    Examples
    --------
    >>> [round(float(p), 12) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, float)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    adjusted = np.full(p.shape, np.nan)
    # Multiply the smallest of m p-values by m, the next by m - 1, and so on. The running maximum
    # keeps their order.
    products = np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1))
    adjusted[order] = np.minimum(products, 1.0)
    return adjusted
