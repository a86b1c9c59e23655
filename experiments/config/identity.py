"""Cell ids: a hash over the values of a cell's config that can change its result."""

from __future__ import annotations

import fnmatch
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from experiments.config.groups import EXECUTION_GROUPS
from experiments.config.instantiate import TARGET

# Keys that don't change a cell's result: where it runs, and settings of the sweep.
EXCLUDED = ("data.root", "data.download", *EXECUTION_GROUPS, "engine", "hydra")

# Sources of the user's own files: the hash contains their content, not the path in this key.
PATH_KEYS = {"experiments.data.Arrays": "data.file", "experiments.data.ImageFolder": "data.folder"}

# Part of every hash. A new version changes all ids, so that old results are not reused.
SCHEMA_VERSION = 2

# Options added after this schema version: (dotted key, default when it was added). The key is left
# out of the hash of cells that have this value, so older ids stay valid. In a key, `*` matches any
# layer name. Only append to this list.
MIGRATIONS: tuple[tuple[str, Any], ...] = (
    ("init.per_group", False),
    ("init.layers.*.per_group", False),
    ("probe.quantities", []),
    ("probe.sums", False),
)

SCALARS = (str, int, float, type(None))


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) for all values of nested mappings; an empty mapping is a value.

    >>> dict(flatten({"optim": {"lr": 0.1}, "seed": 0, "clip": {"factors": {}}}))
    {'optim.lr': 0.1, 'seed': 0, 'clip.factors': {}}
    """
    for key, value in config.items():
        # Scalars first: most values are scalars, and isinstance(value, Mapping) is slow.
        if not isinstance(value, SCALARS) and isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def scientific(
    config: Mapping[str, Any], migrations: tuple[tuple[str, Any], ...] = MIGRATIONS
) -> dict[str, Any]:
    """Return the values that identify a cell, by dotted key."""
    excluded = tuple(f"{key}." for key in EXCLUDED)
    values = {
        key: value
        for key, value in flatten(config)
        if key not in EXCLUDED and not key.startswith(excluded)
    }
    if path_key := own_path_key(config):
        values.pop(path_key, None)
    for pattern, default in migrations:
        for key in fnmatch.filter(values, pattern) if "*" in pattern else (pattern,):
            if key in values and values[key] == default:
                del values[key]
    return values


def own_path_key(config: Mapping[str, Any]) -> str | None:
    """Return the key of the path of the user's own data files; None for other data sets."""
    data = config.get("data")
    return PATH_KEYS.get(data.get(TARGET, "")) if isinstance(data, Mapping) else None


def hashed_text(key: str, value: Any, migrations: tuple[tuple[str, Any], ...] = MIGRATIONS) -> str:
    """Return what one entry of a coerced config contributes to the text that is hashed."""
    values = scientific({key: value}, migrations)
    return json.dumps(values, sort_keys=True, separators=(",", ":"))[1:-1]


def fingerprint(
    config: Mapping[str, Any], migrations: tuple[tuple[str, Any], ...] = MIGRATIONS
) -> str:
    """Return 64 bits of a coerced config's SHA-256 hash as 16 hexadecimal digits."""
    return _hash(hashed_text(key, value, migrations) for key, value in config.items())


def _hash(texts: Iterable[str]) -> str:
    # Sorted texts have sorted keys, because no entry's key contains characters below `.` and `"`.
    values = ",".join(sorted(filter(None, texts)))
    text = f'{{"schema":{SCHEMA_VERSION},"values":{{{values}}}}}'
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def cell_id(config: Mapping[str, Any], texts: Iterable[str] | None = None) -> str:
    """Return the cell id: a readable prefix and a hash, `digits-plain-relu-henormal-s0-9f0c...`.

    Parameters
    ----------
    config
        A *coerced* cell config (`schema.coerce_cell`): type-checked, with all defaults.
    texts
        `hashed_text` of each entry. None: computed here.
    """
    groups = ("data", "model", "activation", "init")
    names = [str(config[group][TARGET]).rsplit(".", 1)[-1].lower() for group in groups]
    digits = fingerprint(config) if texts is None else _hash(texts)
    return "-".join([*names, f"s{config['seed']}", digits])
