"""Log-moments of real finite-width ReLU networks, without their matrices.

Given the layer below, the n units of a He-initialized layer are independent N(0, q). So q of the
next layer is q times 2/n sum relu(z)^2, and the measured moment of this one q times 1/n sum z^2:
two chi-squared numbers a layer, for k ~ Binomial(n, 1/2) units that are on and n - k that are off.
"""

from __future__ import annotations

import numpy as np


def relu_chain(n: int, depth: int, size: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Second moments [*size, layer] of independent draws; E is 1 in each layer."""
    q = np.ones(size)
    moments = []
    for _ in range(depth):
        on = rng.binomial(n, 0.5, size)
        above = np.where(on > 0, rng.chisquare(np.maximum(on, 1)), 0.0)
        below = np.where(on < n, rng.chisquare(np.maximum(n - on, 1)), 0.0)
        moments.append(q * (above + below) / n)
        q = q * 2 * above / n
    return np.stack(moments, axis=-1)


def relu_log_sd(n: int, depth: int) -> np.ndarray:
    """Hanin & Nica 2020, Theorem 1: beta_l = 2/n + 5 (l - 1)/n, as derivations.md, section 5.1."""
    return np.sqrt((2 + 5 * np.arange(depth)) / n)
