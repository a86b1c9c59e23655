"""Where something begins, between two values of a grid."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float64


def bracket(
    values: Float64[np.ndarray, " value"], has: Bool[np.ndarray, " value"]
) -> tuple[float, float]:
    """The last value before the first that has it, and that one.

    Parameters
    ----------
    values
        Positive, from small to large.
    has
        Whether each has it.

    Returns
    -------
    tuple
        0 in place of the former where the very first has it, inf in place of the latter where none.

    Examples
    --------
    >>> bracket(np.array([1.0, 2.0, 4.0]), np.array([False, True, False]))
    (1.0, 2.0)
    >>> bracket(np.array([1.0, 2.0]), np.array([True, True]))
    (0.0, 1.0)
    >>> bracket(np.array([1.0, 2.0]), np.array([False, False]))
    (2.0, inf)
    """
    at = int(has.argmax()) if has.any() else len(values)
    below = float(values[at - 1]) if at else 0.0
    return below, float(values[at]) if at < len(values) else np.inf
