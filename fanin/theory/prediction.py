"""Prediction of one theory: a value per weight layer, image and quantity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Float64

METHODS = ("exact", "first_order", "sampled", "simulated")
"""Ways to compute a predicted number, from the strictest to one that tests no theory.

- `exact`: a closed form or quadrature.
- `first_order`: theory `field` with a first-order law in 1 / width; includes the sampling of the
  field.
- `sampled`: samples of a layer's units or channels given the layer before, without drawing
  weights. Their distribution is exact in linear layers; in convolutions, correlations between
  positions come from theory `field`.
- `simulated`: weights were drawn and images propagated through the networks. Such a number agrees
  with measured draws by construction.
"""
MEAN_OVER_IMAGES = -1
"""Value of `image` in rows that average over the images, as in the `layers` table."""


@dataclass(frozen=True)
class DrawDistribution:
    """Distribution of one draw's moments, one row per image and a last row for their mean.

    Attributes
    ----------
    value
        Expectation over all draws.
    log_sd
        Standard deviation of the logarithm of one draw's moment if it is not 0 (see
        `fanin.statistics.draw_distribution`). NaN for signed quantities and for moments without
        such a distribution.
    sampling_se
        Standard error of `value` caused by the theory's own sampling.
    zero_probability
        Probability that one draw's moment is exactly 0, as in a network with a dead layer.
    log_skew
        Skewness of that logarithm; 0 if the moment is log-normal.
    """

    value: Float64[np.ndarray, "row layer"]
    log_sd: Float64[np.ndarray, "row layer"]
    sampling_se: Float64[np.ndarray, "row layer"]
    zero_probability: Float64[np.ndarray, "row layer"] | float = 0.0
    log_skew: Float64[np.ndarray, "row layer"] | float = 0.0


@dataclass(frozen=True)
class Prediction:
    """Predicted moments of one network.

    Attributes
    ----------
    theory
        Name of the theory.
    method
        Name from `METHODS`.
    layer_names
        Module paths of the weight layers in forward order.
    repeats
        Arrays [repeat, image, layer] by quantity. A deterministic theory gives one repeat, a
        sampling theory gives independent ones. Quantities have the names of the `layers` table.
    distributions
        Distributions by quantity, from theories that predict the variation between draws. Each
        quantity is either in `repeats` or in `distributions`.

    Examples
    --------
    >>> he = Prediction("he", "exact", ("fc1",), {"preact_m2": np.array([[[1.0], [3.0]]])})
    >>> print(he.to_frame()[["image", "layer", "layer_name", "value"]].to_string(index=False))
     image  layer layer_name  value
         0      1        fc1    1.0
         1      1        fc1    3.0
        -1      1        fc1    2.0
    """

    theory: str
    method: str
    layer_names: tuple[str, ...]
    repeats: Mapping[str, Float64[np.ndarray, "repeat image layer"]]
    distributions: Mapping[str, DrawDistribution] = field(default_factory=dict)

    def value(self, quantity: str) -> Float64[np.ndarray, "image layer"]:
        """Return the predicted values of one quantity for every image."""
        if quantity in self.distributions:
            return self.distributions[quantity].value[:-1]
        return _mean(self.repeats[quantity])

    def to_frame(self) -> pd.DataFrame:
        """Return the prediction as rows of the `predictions` table.

        Returns
        -------
        pandas.DataFrame
            Columns `image` (-1: mean over the images), `layer` (from 1), `layer_name`, `quantity`,
            `theory`, `method`, `value`, `log_sd` (standard deviation of the log of one draw's
            moment, if it is not 0; NaN if unknown), `sampling_se` (standard error of `value` caused
            by the theory's own sampling; 0 for a deterministic theory), `zero_probability`
            (probability that one draw's moment is exactly 0) and `log_skew` (skewness of the log of
            one draw's moment); the last two are NaN if the theory predicts no variation between
            draws.
        """
        distributions = {name: _distribution(repeats) for name, repeats in self.repeats.items()}
        distributions.update(self.distributions)
        frames = [self._rows(*item) for item in distributions.items()]
        return pd.concat(frames, ignore_index=True)

    def _rows(self, quantity: str, distribution: DrawDistribution) -> pd.DataFrame:
        rows, layers = distribution.value.shape
        return pd.DataFrame(
            {
                "image": np.repeat([*range(rows - 1), MEAN_OVER_IMAGES], layers),
                "layer": np.tile(np.arange(1, layers + 1), rows),
                "layer_name": np.tile(np.array(self.layer_names, dtype=object), rows),
                "quantity": quantity,
                "theory": self.theory,
                "method": self.method,
                "value": distribution.value.ravel(),
                "log_sd": distribution.log_sd.ravel(),
                "sampling_se": distribution.sampling_se.ravel(),
                "zero_probability": np.broadcast_to(
                    distribution.zero_probability, (rows, layers)
                ).ravel(),
                "log_skew": np.broadcast_to(distribution.log_skew, (rows, layers)).ravel(),
            }
        )


def _distribution(repeats: Float64[np.ndarray, "repeat image layer"]) -> DrawDistribution:
    with np.errstate(over="ignore"):  # a mean beyond the range of float64 is inf
        over_images = repeats.mean(1, keepdims=True)
    rows = np.concatenate([repeats, over_images], axis=1)
    unknown = np.full(rows.shape[1:], np.nan)
    return DrawDistribution(_mean(rows), unknown, _standard_error(rows), unknown, unknown)


def _mean(repeats: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.asarray(repeats.mean(0))


def _standard_error(repeats: np.ndarray) -> np.ndarray:
    n = len(repeats)
    if n == 1:
        return np.zeros(repeats.shape[1:])
    overflowed = ~np.isfinite(repeats).all(0)
    # Scaled, because the square of a representable moment may overflow.
    scale = np.where(overflowed, 1.0, np.abs(repeats).max(0))
    scale = np.where(scale > 0, scale, 1.0)
    finite = np.where(overflowed, 0.0, repeats) / scale
    return np.asarray(np.where(overflowed, np.inf, scale * finite.std(0, ddof=1) / np.sqrt(n)))
