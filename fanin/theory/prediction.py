"""Predictions of one theory: a value per weight layer, image and quantity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Float64

MEAN_OVER_IMAGES = -1
"""The `image` of rows that average over the images, as in the `layers` table."""


@dataclass(frozen=True)
class DrawLaw:
    """Law of one draw's moments, for every image and, as the last row, the mean over them.

    Attributes
    ----------
    value
        The expectation.
    log_sd
        Spread of one draw's log-moment: log m ~ N(log(value) - log_sd^2 / 2, log_sd^2). NaN where
        there is none: of a signed quantity, or a moment that may vanish.
    sampling_se
        Standard error of `value` from the theory's own sampling.
    """

    value: Float64[np.ndarray, "row layer"]
    log_sd: Float64[np.ndarray, "row layer"]
    sampling_se: Float64[np.ndarray, "row layer"]


@dataclass(frozen=True)
class Prediction:
    """Predicted moments of one network.

    Attributes
    ----------
    theory
        Which theory.
    layer_names
        The weight layers in forward order.
    repeats
        Quantity to an array [repeat, image, layer]: one repeat where the theory is deterministic,
        independent ones where it samples. The quantities are the `layers` table's.
    draws
        The same for theories that know how single draws scatter; a quantity is in one of the two.

    Examples
    --------
    >>> he = Prediction("he", ("fc1",), {"preact_m2": np.array([[[1.0], [3.0]]])})
    >>> print(he.to_frame()[["image", "layer", "layer_name", "value"]].to_string(index=False))
     image  layer layer_name  value
         0      1        fc1    1.0
         1      1        fc1    3.0
        -1      1        fc1    2.0
    """

    theory: str
    layer_names: tuple[str, ...]
    repeats: Mapping[str, Float64[np.ndarray, "repeat image layer"]]
    draws: Mapping[str, DrawLaw] = field(default_factory=dict)

    def value(self, quantity: str) -> Float64[np.ndarray, "image layer"]:
        """The prediction for every image."""
        if quantity in self.draws:
            return self.draws[quantity].value[:-1]
        return _mean(self.repeats[quantity])

    def to_frame(self) -> pd.DataFrame:
        """The prediction as rows of the `predictions` table.

        Returns
        -------
        DataFrame
            `image` (-1: mean over the images), `layer` (from 1), `layer_name`, `quantity`,
            `theory`, `value`, `log_sd` (spread of one draw's log-moment; NaN where none is known)
            and `sampling_se` (standard error of `value` from the theory's own sampling; 0: none).
        """
        laws = {quantity: _law(repeats) for quantity, repeats in self.repeats.items()}
        laws.update(self.draws)
        return pd.concat([self._rows(*law) for law in laws.items()], ignore_index=True)

    def _rows(self, quantity: str, law: DrawLaw) -> pd.DataFrame:
        rows, layers = law.value.shape
        return pd.DataFrame(
            {
                "image": np.repeat([*range(rows - 1), MEAN_OVER_IMAGES], layers),
                "layer": np.tile(np.arange(1, layers + 1), rows),
                "layer_name": np.tile(np.array(self.layer_names, dtype=object), rows),
                "quantity": quantity,
                "theory": self.theory,
                "value": law.value.ravel(),
                "log_sd": law.log_sd.ravel(),
                "sampling_se": law.sampling_se.ravel(),
            }
        )


def _law(repeats: Float64[np.ndarray, "repeat image layer"]) -> DrawLaw:
    with np.errstate(over="ignore"):  # a mean that float64 can't hold is inf
        over_images = repeats.mean(1, keepdims=True)
    rows = np.concatenate([repeats, over_images], axis=1)
    return DrawLaw(_mean(rows), np.full(rows.shape[1:], np.nan), _standard_error(rows))


def _mean(repeats: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.asarray(repeats.mean(0))


def _standard_error(repeats: np.ndarray) -> np.ndarray:
    n = len(repeats)
    if n == 1:
        return np.zeros(repeats.shape[1:])
    overflowed = ~np.isfinite(repeats).all(0)
    # Scaled, because the square of a representable moment may not be.
    scale = np.where(overflowed, 1.0, np.abs(repeats).max(0))
    scale = np.where(scale > 0, scale, 1.0)
    finite = np.where(overflowed, 0.0, repeats) / scale
    return np.asarray(np.where(overflowed, np.inf, scale * finite.std(0, ddof=1) / np.sqrt(n)))
