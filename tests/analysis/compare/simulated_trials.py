"""Simulated trials with scores from a known distribution."""

from __future__ import annotations

import numpy as np
import pandas as pd

FLAT = (0.50, 0.78, 0.80, 0.79, 0.30)  # mean score by tuned value: three nearly equal
PEAKED = (0.50, 0.60, 0.80, 0.60, 0.30)  # one clear maximum


def simulate_trials(
    rng: np.random.Generator,
    *,
    surface: tuple[float, ...] = FLAT,
    strategies: int = 8,
    seeds: int = 5,
    settings: int = 1,
    planted: float = 0.0,
    sd: float = 0.02,
) -> pd.DataFrame:
    """Simulate trials of equal strategies, except the first, which scores `planted` more.

    A score is the sum of the surface at the tuned value, an effect shared by all strategies of a
    seed, and noise of standard deviation `sd`. The training loss has independent noise.
    """
    shape = (settings, strategies, seeds, len(surface))
    shared = sd * rng.standard_normal((settings, 1, seeds, 1))
    level = np.asarray(surface) + shared
    score = level + sd * rng.standard_normal(shape)
    score[:, 0] += planted
    setting, strategy, seed, value = (index.ravel() for index in np.indices(shape))
    return pd.DataFrame(
        {
            "strategy": [f"s{k}" for k in strategy],
            "setting": [f"t{k}" for k in setting],
            "group": "all",
            "seed": [str(k) for k in seed],
            "tuned": 10.0 ** (value - 3.0),
            "score": score.ravel(),
            "loss": -(level + sd * rng.standard_normal(shape)).ravel(),
            "diverged": False,
            "done": True,
        }
    )
