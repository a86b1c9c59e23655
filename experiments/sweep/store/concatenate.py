"""Parts of a table as one, though they differ in columns and in a column's kind."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa


def concatenate(parts: Sequence[pa.Table]) -> pa.Table:
    """One table of several parts' rows.

    Parameters
    ----------
    parts
        At least one.

    Returns
    -------
    pyarrow.Table
        Columns that a part lacks are null there, and numbers meet as floats. A column of words in
        one part and of numbers in another is words: what was none as JSON, as within one part.
    """
    mixed = _mixed(parts)
    parts = [_wide(_worded(part.replace_schema_metadata(None), mixed)) for part in parts]
    return pa.concat_tables(parts, promote_options="permissive").unify_dictionaries()


def _wide(part: pa.Table) -> pa.Table:
    """Room for all parts' words: pandas numbers those of one in as few bits as it can."""
    for place, field in enumerate(part.schema):
        if pa.types.is_dictionary(field.type) and field.type.index_type != pa.int32():
            kind = pa.dictionary(pa.int32(), field.type.value_type)
            part = part.set_column(place, field.name, part[field.name].cast(kind))
    return part


def _mixed(parts: Sequence[pa.Table]) -> set[str]:
    """Columns of words in one part and of numbers, or of truth values, in another."""
    kinds: dict[str, set[str]] = {}
    for schema in {part.schema for part in parts}:
        for field in schema:
            if not pa.types.is_null(field.type):
                kinds.setdefault(field.name, set()).add(_kind(field.type))
    return {name for name, found in kinds.items() if len(found) > 1}


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "truth"
    return "number" if pa.types.is_primitive(kind) else "word"


def _worded(part: pa.Table, columns: set[str]) -> pa.Table:
    """Some columns as words."""
    for name in columns & set(part.column_names):
        column = part[name]
        if _kind(column.type) != "word":
            texts = [None if v is None else json.dumps(v) for v in column.to_pylist()]
            column = pa.array(texts, pa.string()).dictionary_encode()
            part = part.set_column(part.column_names.index(name), name, column)
    return part
