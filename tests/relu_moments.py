"""Exact samples of the second moments of finite-width ReLU networks, without weight matrices.

Given the previous layer, the n units of a He-initialized layer are independent N(0, q). The next
layer's q is q times 2/n sum relu(z)^2, and the measured moment is q times 1/n sum z^2. Both follow
from two chi-squared variables, for k ~ Binomial(n, 1/2) positive and n - k negative units.
"""

from __future__ import annotations

import numpy as np


def sample_relu_moments(
    n: int, depth: int, size: tuple[int, ...], rng: np.random.Generator
) -> np.ndarray:
    """Sample second moments [*size, layer] of independent draws, with expectation 1."""
    q = np.ones(size)
    moments = []
    for _ in range(depth):
        k = rng.binomial(n, 0.5, size)
        positive = np.where(k > 0, rng.chisquare(np.maximum(k, 1)), 0.0)
        negative = np.where(k < n, rng.chisquare(np.maximum(n - k, 1)), 0.0)
        moments.append(q * (positive + negative) / n)
        q = q * 2 * positive / n
    return np.stack(moments, axis=-1)


def relu_log_sd(n: int, depth: int) -> np.ndarray:
    """Return sqrt(beta_l), beta_l = 2/n + 5 (l - 1)/n (Hanin & Nica 2020, Theorem 1)."""
    return np.sqrt((2 + 5 * np.arange(depth)) / n)
