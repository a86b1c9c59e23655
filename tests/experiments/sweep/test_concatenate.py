"""Concatenation of parts into one table."""

import pandas as pd
import pyarrow as pa

from experiments.sweep.store.tables import concatenate


def test_parts_together_exceed_the_dictionary_of_one():
    words = [[f"part{part}-{n}" for n in range(100)] for part in range(3)]
    frames = [pd.DataFrame({"cell_id": pd.Categorical(part_words)}) for part_words in words]
    parts = [pa.Table.from_pandas(frame, preserve_index=False) for frame in frames]
    assert parts[0].schema.field("cell_id").type.index_type == pa.int8()  # as pandas has it
    assert concatenate(parts)["cell_id"].to_pylist() == [
        w for part_words in words for w in part_words
    ]
