"""The errors a person at the keyboard should see: short, and naming the nearest valid choice."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class FaninError(Exception):
    """Something the user can mend; shown without a traceback."""


class ConfigError(FaninError):
    """A key, value or combination that has no meaning."""


class DataError(FaninError):
    """A data file that is missing, torn or not what it should be."""


class FaninWarning(UserWarning):
    """Something the user should know, though it stops nothing."""


def nearest(name: str, choices: Iterable[str], n: int = 3) -> str:
    """Say which of the valid choices were probably meant.

    >>> nearest("he_norml", ["he_normal", "he_uniform", "zeros"])
    'did you mean he_normal or he_uniform? valid: he_normal, he_uniform, zeros'
    >>> nearest("qqq", ["a", "b"])
    'valid: a, b'
    """
    valid = sorted(choices)
    close = get_close_matches(name, valid, n=n, cutoff=0.6)
    meant = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{meant}valid: {', '.join(valid)}" if valid else "there are no valid choices"
