"""Identity of a cell: a hash over the whole resolved scientific configuration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from experiments.config.groups import HOW_IT_RUNS
from experiments.config.instantiate import TARGET

# How or where a cell ran, and what was asked of the sweep around it, is not what it is.
EXCLUDED = ("data.root", "data.download", *HOW_IT_RUNS, "engine", "hydra")

# Part of every hash. A new version makes all ids new, so that no old result is taken for a new one.
SCHEMA_VERSION = 2

# Options added after this schema version, each with the value it was introduced with: (dotted key,
# value). While a cell has that value the key is left out of its hash, so ids made before the
# option existed stay valid. Rows are only ever added, never changed.
MIGRATIONS: tuple[tuple[str, Any], ...] = ()

SCALARS = (str, int, float, type(None))


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value under its dotted key; an empty mapping is a value.

    >>> dict(flatten({"optim": {"lr": 0.1}, "seed": 0, "clip": {"factors": {}}}))
    {'optim.lr': 0.1, 'seed': 0, 'clip.factors': {}}
    """
    for key, value in config.items():
        # Scalars first: asking whether something is a Mapping takes long, and most are not.
        if not isinstance(value, SCALARS) and isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def scientific(
    config: Mapping[str, Any], migrations: tuple[tuple[str, Any], ...] = MIGRATIONS
) -> dict[str, Any]:
    """The dotted values that identify a cell."""
    excluded = tuple(f"{key}." for key in EXCLUDED)
    values = {
        key: value
        for key, value in flatten(config)
        if key not in EXCLUDED and not key.startswith(excluded)
    }
    for key, introduced_as in migrations:
        if key in values and values[key] == introduced_as:
            del values[key]
    return values


def fingerprint(
    config: Mapping[str, Any], migrations: tuple[tuple[str, Any], ...] = MIGRATIONS
) -> str:
    """64 bits of SHA-256, as 16 hexadecimal digits, over a coerced config."""
    values = scientific(config, migrations)
    versioned = {"schema": SCHEMA_VERSION, "values": values}
    text = json.dumps(versioned, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def cell_id(config: Mapping[str, Any]) -> str:
    """A readable prefix and the fingerprint, such as `digits-plain-relu-henormal-s0-9f0c...`.

    Parameters
    ----------
    config
        A *coerced* cell config (`schema.coerce_cell`): typed, every default present.
    """
    groups = ("data", "model", "activation", "init")
    words = [str(config[group][TARGET]).rsplit(".", 1)[-1].lower() for group in groups]
    return "-".join([*words, f"s{config['seed']}", fingerprint(config)])
