"""Errors that a user can fix. Their messages are short and name the nearest valid choice."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

SYNONYMS = {"kaiming": "he", "msra": "he", "glorot": "xavier"}  # other names of inits


class FaninError(Exception):
    """Base class of errors that a user can fix, shown without a traceback."""


class ConfigError(FaninError):
    """Invalid key, value or combination in a config."""


class DataError(FaninError):
    """Missing, truncated or unexpected data file."""


class InputError(FaninError, ValueError):
    """Invalid model, images or other argument of a Python function."""


class FaninWarning(UserWarning):
    """Warning for the user; the command continues."""


def suggest(name: str, choices: Iterable[str], n: int = 3) -> str:
    """Return a hint for an invalid name: the most similar choices, then all valid ones.

    Examples
    --------
    >>> suggest("he_norml", ["he_normal", "he_uniform", "zeros"])
    'did you mean he_normal or he_uniform? valid: he_normal, he_uniform, zeros'
    >>> suggest("kaiming", ["he_normal", "he_uniform"])
    'did you mean he_normal or he_uniform? valid: he_normal, he_uniform'
    >>> suggest("qqq", ["a", "b"])
    'valid: a, b'
    """
    valid = sorted(choices)
    close = _by_prefix(name, valid)[:n] or get_close_matches(name, valid, n=n, cutoff=0.6)
    question = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{question}valid: {', '.join(valid)}" if valid else "there are no valid choices"


def _by_prefix(name: str, choices: Iterable[str]) -> list[str]:
    """Return the choices that begin with a name; other names of inits count too."""
    first, _, rest = name.lower().partition("_")
    start = "_".join([SYNONYMS.get(first, first), *([rest] if rest else [])])
    return [choice for choice in choices if start and choice.startswith(start)]
