"""Names of rows and panels that may be long: wrapped, and the room they take."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from analysis.figures.style import plain

CHARACTER, LINE = 0.075, 0.14  # inches, of small type
WIDEST = 44  # characters of a row's label in one line


def wrapped(text: str, inches: float) -> str:
    """Text in lines of that width, each as it is (`analysis.figures.style.plain`).

    >>> wrapped("normal std=0.01", 0.8)
    'normal\\nstd=0.01'
    """
    return "\n".join(map(plain, textwrap.wrap(text, max(8, int(inches / CHARACTER)))))


def row_labels(names: Sequence[str]) -> list[str]:
    """Names of rows, the longest in several lines."""
    return [wrapped(name, WIDEST * CHARACTER) for name in names]


def room(labels: Sequence[str]) -> tuple[float, float]:
    """Width of the widest label and height of the highest, in inches.

    >>> width, height = room(["he_normal", "a\\nb"])
    >>> round(width, 3), height
    (0.675, 0.28)
    """
    lines = [label.split("\n") for label in labels]
    widest = max(len(line) for each in lines for line in each)
    return CHARACTER * widest, LINE * max(map(len, lines))
