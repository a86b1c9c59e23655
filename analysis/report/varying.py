"""What cells of a sweep differ in, and what they share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from analysis.keys import place
from analysis.report.column import Column, kind_of, plain, word
from experiments.config.identity import flatten, scientific
from experiments.config.instantiate import TARGET
from experiments.sweep.store.plan_file import Line


def varying(frozen: Mapping[str, Line], ids: Sequence[str]) -> list[Column]:
    """Options and keys that somebody asked for and that not all cells have alike."""
    flat = {cell: _known(line) for cell, line in frozen.items()}
    keys = {key for line in frozen.values() for key in line["asked"]}
    keys |= {group for line in frozen.values() for group in line["choices"]}
    columns = []
    for key in sorted(keys, key=place):
        values = [plain(flat[cell].get(key)) if cell in flat else None for cell in ids]
        if len({json.dumps(value) for value in values}) > 1:
            columns.append(Column(key, kind_of(values), values))
    return columns


def folded(columns: Sequence[Column]) -> list[Column]:
    """For people: an option with the keys that come with it, `uniform a=0.0 b=1.0`, in one column.

    A key goes into its option's column where the option decides its value, or where not every cell
    has it.
    """
    options = {c.key: c for c in columns if c.role == "varies" and "." not in c.key}
    found: dict[str, Column] = {column.key: column for column in columns}
    for column in columns:
        group, _, name = column.key.partition(".")
        if column.role == "varies" and name and group in options:
            if None not in column.values and not _decided(options[group], column):
                continue
            del found[column.key]
            words = [
                option if value is None else f"{option} {name}={word(value)}"
                for option, value in zip(found[group].values, column.values, strict=True)
            ]
            found[group] = replace(found[group], values=words)
    return list(found.values())


def _decided(option: Column, column: Column) -> bool:
    pairs = set(zip(map(word, option.values), map(word, column.values), strict=True))
    return len(pairs) == len(set(map(word, option.values)))


def shared(frozen: Mapping[str, Line]) -> dict[str, str]:
    """What all cells have alike: options, then every value under its dotted key."""
    common: dict[str, Any] | None = None
    for line in frozen.values():
        known = dict(line["choices"]) | {
            key: value
            for key, value in scientific(line["config"]).items()
            if not key.endswith(TARGET)
        }
        common = (
            known
            if common is None
            else {key: value for key, value in common.items() if known.get(key) == value}
        )
    return {key: word(common[key]) for key in sorted(common, key=place)} if common else {}


def _known(line: Line) -> dict[str, Any]:
    return dict(flatten(line["config"])) | dict(line["choices"])
