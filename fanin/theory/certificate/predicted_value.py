"""`PredictedValue`: a predicted number, its method, and the distribution of one draw's value."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf, isfinite, log

from fanin.statistics.draw_distribution import LEVELS, log_interval, predicted_mean_log

MAX_LOG = 700.0  # of the bounds of an interval; exp(710) overflows


@dataclass(frozen=True)
class PredictedValue:
    """Prediction of one quantity, averaged over the images.

    Attributes
    ----------
    value
        Expectation over draws of the weights.
    log_sd
        Standard deviation of the logarithm of one draw's value, if it is not 0; NaN if no theory
        predicts it.
    sampling_se
        Standard error of `value` caused by the theory's own sampling.
    theory
        Name of the theory.
    method
        How the number was computed: a name from `fanin.theory.prediction.METHODS`.
    zero_probability
        Probability that one draw's value is exactly 0; NaN if no theory predicts it.
    log_skew
        Skewness of the logarithm of one draw's value, if it is not 0; 0 if the value is log-normal,
        NaN if no theory predicts it.
    spread
        Prediction of drawn networks, if the theory of `value` predicts no variation between draws.
        None if it does, or if no networks were drawn.
    """

    value: float
    log_sd: float
    sampling_se: float
    theory: str
    method: str
    zero_probability: float = 0.0
    log_skew: float = 0.0
    spread: PredictedValue | None = None

    @property
    def distribution(self) -> PredictedValue:
        """The prediction of one draw's distribution: `spread`, or this one."""
        return self if self.spread is None else self.spread

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of one draw's value; None if `log_sd` is unknown.

        The logarithm of one draw's value has a normal or log-gamma distribution (see
        `fanin.statistics.draw_distribution`), so the median is below the mean (Hanin & Nica 2020).
        If the value is exactly 0 in at least 2.5 % of the draws, the lower bound is 0.

        Examples
        --------
        >>> low, high = PredictedValue(2.0, 0.5, 0.0, "finite_width", "first_order").interval
        >>> round(low, 3), round(high, 3)
        (0.662, 4.703)
        >>> PredictedValue(2.0, 0.5, 0.0, "finite_width", "simulated", 0.3).interval[0]
        0.0
        """
        if self.spread is not None:
            return self.spread.interval
        p = self.zero_probability if isfinite(self.zero_probability) else 0.0
        if p >= LEVELS[1]:
            return 0.0, 0.0
        if not isfinite(self.log_sd) or not 0 < self.value < inf:
            return None
        log_skew = self.log_skew if isfinite(self.log_skew) else 0.0
        # Includes the theory's own sampling error, which is normal and has no third cumulant.
        sd = (self.log_sd**2 + (self.sampling_se / self.value) ** 2) ** 0.5
        skew = log_skew * (self.log_sd / sd) ** 3 if sd else 0.0
        mean_log = predicted_mean_log(log(self.value), self.log_sd, p, log_skew)
        bounds = log_interval(mean_log, sd, p, skew)
        low, high = (exp(min(float(bound), MAX_LOG)) for bound in bounds)
        return low, high
