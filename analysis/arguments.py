"""What flags of several commands take."""

from __future__ import annotations

import argparse


def chance(text: str) -> float:
    """A chance, neither sure nor impossible.

    >>> chance("0.05")
    0.05
    """
    number = float(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a chance between 0 and 1")
    return number
