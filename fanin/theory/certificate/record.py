"""Records of a certificate: one layer's, and the logits'."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import exp, isfinite, nan
from typing import Any

Z95 = 1.959963984540054  # a standard normal lies within it 95 times in 100


@dataclass(frozen=True)
class PredictedValue:
    """One predicted number, a mean over the images.

    Attributes
    ----------
    value
        Its expectation over draws of the weights.
    log_sd
        Spread of one draw's logarithm; NaN where no theory knows it.
    sampling_se
        Standard error of `value` from the theory's own sampling.
    theory
        Which theory.
    """

    value: float
    log_sd: float
    sampling_se: float
    theory: str

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of one draw's number; None without a spread.

        One draw's logarithm is N(log value - log_sd^2 / 2, log_sd^2): the median lies below the
        mean (Hanin & Nica 2020).

        Examples
        --------
        >>> low, high = PredictedValue(2.0, 0.5, 0.0, "finite_width").interval
        >>> round(low, 3), round(high, 3)
        (0.662, 4.703)
        """
        if not isfinite(self.log_sd) or not self.value > 0:
            return None
        # The theory's own error widens it.
        spread = Z95 * (self.log_sd**2 + (self.sampling_se / self.value) ** 2) ** 0.5
        centre = self.value * exp(-(self.log_sd**2) / 2)
        return centre * exp(-min(spread, 700.0)), centre * exp(min(spread, 700.0))


@dataclass(frozen=True)
class DepthScales:
    """Depth scales of a deep net of layers like this one (Schoenholz et al. 2017).

    Attributes
    ----------
    sigma_w2, sigma_b2
        fan_in Var[w], and Var[b].
    chi_1
        Growth of a squared gradient per layer; 1 is critical.
    q_star
        The second moment that depth leads to.
    xi_q, xi_c
        Depth scales, in layers, of the second moment and of the correlation between inputs.
    phase
        `ordered`, `critical` or `chaotic`; or what q does instead of having a fixed point.
    critical_sigma_w2
        What sigma_w2 would have to be for chi_1 = 1 at this sigma_b2.
    """

    sigma_w2: float
    sigma_b2: float
    chi_1: float = nan
    q_star: float = nan
    xi_q: float = nan
    xi_c: float = nan
    phase: str = "unknown"
    critical_sigma_w2: float = nan


@dataclass(frozen=True)
class LayerCertificate:
    """One weight layer. Numbers that no asked theory predicts are NaN.

    Attributes
    ----------
    layer, name
        Index in forward order, from 1, and module path.
    fan_in, fan_out, channels, positions
        As theory sees the layer; channels are a linear layer's units.
    predicted
        By quantity of the `layers` table, the finest_predictions theory's number.
    theories
        By theory and quantity, every theory's value.
    overflow
        By dtype, the chance that some pre-activation of the batch overflows.
    log_sensitivity
        d log E[x^2] / d log q of what follows the layer: by how much a relative error of its
        second moment grows before the next one.
    depth
        Depth scales for this layer's weights and what follows it.
    basis
        `theory`, or `measured restart` where theory started again from measured activations.
    restarted_at
        The layer that made it do so.
    moments
        Of the weights: `declared`, `given` or `estimated`.
    has_zero_mean_weights
        Whether they have mean zero.
    measured
        By quantity, mean over fresh draws and its standard error, where measuring was asked for.
    """

    layer: int
    name: str
    fan_in: int
    fan_out: int
    channels: int
    positions: int
    predicted: Mapping[str, PredictedValue]
    theories: Mapping[str, Mapping[str, float]]
    basis: str
    moments: str
    has_zero_mean_weights: bool
    restarted_at: str | None = None
    overflow: Mapping[str, float] = field(default_factory=dict)
    log_sensitivity: float = nan
    depth: DepthScales | None = None
    measured: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def value(self, quantity: str) -> float:
        """The predicted number of that name, a mean over the images; NaN if there is none."""
        found = self.predicted.get(quantity)
        return nan if found is None else found.value

    @property
    def mean(self) -> float:
        """E[y] of the pre-activation."""
        return self.value("preact_mean")

    @property
    def q(self) -> float:
        """E[y^2] of the pre-activation."""
        return self.value("preact_m2")

    @property
    def var(self) -> float:
        """Variance of the pre-activation over units and positions of one image."""
        return self.value("preact_var")

    @property
    def dead_fraction(self) -> float:
        """Expected share of units that are zero on the whole batch."""
        return self.value("dead_fraction")

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of one draw's second moment."""
        found = self.predicted.get("preact_m2")
        return None if found is None else found.interval

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        numbers = {
            quantity: {
                "value": each.value,
                "log_sd": each.log_sd,
                "interval": each.interval,
                "sampling_se": each.sampling_se,
                "theory": each.theory,
            }
            for quantity, each in self.predicted.items()
        }
        measured = {
            quantity: {"mean": mean, "se": se} for quantity, (mean, se) in self.measured.items()
        }
        depth = {} if self.depth is None else dict(vars(self.depth))
        return {
            "layer": self.layer,
            "layer_name": self.name,
            "fan_in": self.fan_in,
            "fan_out": self.fan_out,
            "channels": self.channels,
            "positions": self.positions,
            "basis": self.basis,
            "restarted_at": self.restarted_at,
            "moments": self.moments,
            "predicted": numbers,
            "dead_fraction": self.dead_fraction,
            "overflow": dict(self.overflow),
            "log_sensitivity": self.log_sensitivity,
            **depth,
            **{theory: dict(values) for theory, values in self.theories.items()},
            **({"measured": measured} if measured else {}),
        }


@dataclass(frozen=True)
class OutputCertificate:
    """Predictions for the logits, means over the images.

    Attributes
    ----------
    n_logits
        How many.
    logit_var
        Expected variance over an image's logits.
    initial_loss
        By loss (`cross_entropy`, `mse`, `bce`), its expectation before training.
    gradient_m2
        E[|dL/dlogits|^2] / n_logits of the loss that was asked for, each image's own loss.
    """

    n_logits: int
    logit_var: float
    initial_loss: Mapping[str, float] = field(default_factory=dict)
    gradient_m2: float = nan

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "n_logits": self.n_logits,
            "logit_var": self.logit_var,
            "initial_loss": dict(self.initial_loss),
            "gradient_m2": self.gradient_m2,
        }


def plain(value: Any) -> Any:
    """The value as JSON can hold it: a number that is not finite becomes None.

    Examples
    --------
    >>> plain({"q": (1.0, float("inf"))})
    {'q': [1.0, None]}
    """
    match value:
        case Mapping():
            return {key: plain(entry) for key, entry in value.items()}
        case list() | tuple():
            return [plain(entry) for entry in value]
        case float():
            return value if isfinite(value) else None
    return value
