"""Numbers as tables and sentences show them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.compare.metric import Metric

NONE = "–"


def score(value: float, metric: Metric, sign: bool = False) -> str:
    """Three digits; those of an accuracy after the point.

    >>> from analysis.compare.metric import METRICS
    >>> score(0.91234, METRICS["test_accuracy"]), score(2.30258, METRICS["test_loss"], sign=True)
    ('0.912', '+2.3')
    """
    if not np.isfinite(value):
        return NONE
    plus = "+" if sign else ""
    return f"{value:{plus}.3f}" if metric.bounded else f"{value:{plus}.3g}"


def interval(value: float, low: float, high: float, metric: Metric, sign: bool = False) -> str:
    """An estimate with its interval, `0.912 (0.905 to 0.919)`."""
    told = score(value, metric, sign)
    if not (np.isfinite(low) and np.isfinite(high)):
        return told
    return f"{told} ({score(low, metric, sign)} to {score(high, metric, sign)})"


def chance(p: float) -> str:
    """A p-value or a probability.

    >>> chance(0.00004), chance(0.0312), chance(float("nan"))
    ('<0.001', '0.031', '–')
    """
    if np.isnan(p):
        return NONE
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def share(part: int, of: int) -> str:
    """How many of how many; nothing where none is.

    >>> share(0, 60), share(12, 60)
    ('0', '12 of 60')
    """
    return f"{part} of {of}" if part else "0"


def percent(part: float, of: float) -> str:
    """A share that is never told as nothing, nor as all, unless it is.

    >>> percent(0, 60), percent(1, 600), percent(599, 600), percent(60, 60), percent(2, 7)
    ('0%', '<1%', '>99%', '100%', '29%')
    """
    told = f"{part / of:.0%}" if of else "0%"
    if part and told == "0%":
        return "<1%"
    return ">99%" if part < of and told == "100%" else told


def many(number: int, what: str) -> str:
    """A number of things.

    >>> many(1, "seed"), many(3, "seed")
    ('1 seed', '3 seeds')
    """
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def span(values: Sequence[float]) -> str:
    """Distinct values, ascending, in short.

    >>> span([0.01]), span([0.003, 0.01]), span([])
    ('0.01', '0.003 to 0.01', '–')
    """
    if not len(values) or np.isnan(values[0]):
        return NONE
    return f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} to {values[-1]:g}"


def listed(names: Sequence[str]) -> str:
    """Names as a sentence has them.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
