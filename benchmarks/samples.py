"""Repeated measurements: interleaved runs, medians, ratios and fitted exponents."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

MIN_SIZES = 4  # one more than the parameters of the fit of the growth


@dataclass(frozen=True)
class Summary:
    """Median, number and range of repeated measurements."""

    median: float
    n: int
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        """Summarize one or more values."""
        return cls(statistics.median(values), len(values), min(values), max(values))

    def text(self, number: str = "{:.2f}") -> str:
        """Return `median (low to high)`, or only the median of a single value.

        Examples
        --------
        >>> Summary.of([1.0, 2.0, 4.0]).text("{:.0f}"), Summary.of([1.0]).text()
        ('2 (1 to 4)', '1.00')
        """
        median, low, high = (number.format(value) for value in (self.median, self.low, self.high))
        return median if self.n == 1 else f"{median} ({low} to {high})"


def rounds_text(counts: Iterable[int]) -> str:
    """Return the number of rounds, or its smallest and largest value.

    Examples
    --------
    >>> rounds_text([3, 3]), rounds_text([5, 1])
    ('3', '1 to 5')
    """
    different = sorted(set(counts))
    return " to ".join(str(n) for n in dict.fromkeys((different[0], different[-1])))


def interleave(
    actions: Mapping[str, Callable[[], float]], repeats: int, budget: float
) -> dict[str, list[float]]:
    """Run actions in turn, several rounds; return what they return (their seconds) by name.

    Each round starts with the next action, so that none is always the first after a pause.

    Parameters
    ----------
    actions
        The competitors. Each returns its seconds.
    repeats
        Largest number of rounds.
    budget
        Seconds after which no other round starts. The first round always runs.
    """
    results: dict[str, list[float]] = {name: [] for name in actions}
    names, started = list(actions), time.perf_counter()
    for number in range(repeats):
        round_started = time.perf_counter()
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            results[name].append(actions[name]())
        now = time.perf_counter()
        if (now - started) + (now - round_started) > budget:
            break
    return results


def ratios(numerator: Sequence[float], denominator: Sequence[float]) -> list[float]:
    """Return the ratio of each round.

    Examples
    --------
    >>> ratios([2.0, 9.0], [1.0, 3.0])
    [2.0, 3.0]
    """
    return [a / b for a, b in zip(numerator, denominator, strict=True)]


@dataclass(frozen=True)
class Growth:
    """Fit of seconds = constant + coefficient * size^exponent.

    The constant is the time of start-up.
    """

    constant: float
    coefficient: float
    exponent: float

    def seconds(self, size: float) -> float:
        """Return the fitted seconds of a size."""
        return self.constant + self.coefficient * size**self.exponent


def fit_growth(sizes: Sequence[float], seconds: Sequence[float]) -> Growth | None:
    """Fit the growth of a time with the size, by least squares of log(seconds).

    None if there are fewer than `MIN_SIZES` sizes.
    """
    x, y = np.asarray(sizes, float), np.asarray(seconds, float)
    if len(set(sizes)) < MIN_SIZES:
        return None

    def residuals(p: np.ndarray) -> np.ndarray:
        return np.asarray(np.log(p[0] + np.exp(p[1]) * x ** p[2]) - np.log(y))

    # Start from a time that is nearly constant in small sizes and proportional to large ones.
    start = [0.9 * y.min(), np.log(max(y[x.argmax()] - 0.9 * y.min(), 1e-9) / x.max()), 1.0]
    bounds = ([0.0, -50.0, 0.0], [float(y.min()), 50.0, 4.0])
    fit = least_squares(residuals, np.clip(start, *bounds), bounds=bounds, x_scale="jac")
    return Growth(float(fit.x[0]), float(np.exp(fit.x[1])), float(fit.x[2]))
