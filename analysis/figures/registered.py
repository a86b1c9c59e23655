"""Comparison of a sweep's cells with those that its registered YAML (`conf/sweep/`) defines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from analysis.load import Results
from experiments.config.catalog import config_loader
from experiments.config.groups import SEEDS
from experiments.config.identity import scientific
from experiments.sweep.cli import compose_catalog
from experiments.sweep.expand import expand
from experiments.sweep.grid import STANDARD
from experiments.sweep.overrides import parse_arguments
from experiments.sweep.request import parse_request

ABSENT = "<absent>"
CELLS = "combinations of values"  # the difference if every key has the registered values
CRITERIA = "scoring"
SIZE = "sweep.size"


def differences(results: Results, record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys whose values are not those of the registered sweep.

    Parameters
    ----------
    results
        The sweep that was run.
    record
        Launch record: `sweep` names the YAML, `size` the size; `scoring` has the criteria at
        launch. Size `small` gives no verdict, so it is a difference.

    Raises
    ------
    ConfigError
        The YAML does not exist any more, or is invalid.
    """
    size = record.get("size", STANDARD)
    loader = config_loader()
    catalog = compose_catalog(loader, "config", ())
    overrides = [f"sweep={record['sweep']}", f"{SIZE}={size}"]
    request = parse_request(catalog, parse_arguments(loader, overrides))
    registered = {
        cell.id: _values(cell.config, cell.choices) for cell in expand(catalog, request.grids)
    }
    run = {cell: _values(line["config"], line["choices"]) for cell, line in results.plan.items()}
    keys = [] if registered.keys() == run.keys() else _differing(registered.values(), run.values())
    criteria = getattr(request.named, CRITERIA, None)
    changed = [CRITERIA] if _text(criteria) != _text(record.get(CRITERIA)) else []
    return (*([SIZE] if size == "small" else []), *keys, *changed)


def _values(config: Mapping[str, Any], choices: Mapping[str, Any]) -> dict[str, Any]:
    return scientific(config) | dict(choices)


def _differing(
    registered: Iterable[Mapping[str, Any]], run: Iterable[Mapping[str, Any]]
) -> list[str]:
    """Return the keys with different sets of values."""
    left, right = (_value_sets(rows) for rows in (registered, run))
    different = {key for key in left.keys() | right.keys() if left.get(key) != right.get(key)}
    groups = tuple(f"{key}." for key in different)  # of a group that differs, list only its name
    listed = [key for key in sorted(different) if not key.startswith(groups)]
    if "seed" in different:  # it sets the seeds that are not given
        listed = [key for key in listed if key == "seed" or key not in SEEDS]
    return listed or [CELLS]


def _value_sets(rows: Iterable[Mapping[str, Any]]) -> dict[str, set[str]]:
    listed = list(rows)
    keys = {key for row in listed for key in row}
    return {key: {_text(row.get(key, ABSENT)) for row in listed} for key in keys}


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
