"""Parts as one table."""

import pandas as pd
import pyarrow as pa

from experiments.sweep.store.tables import concatenate


def test_parts_together_may_have_more_words_than_one_of_them_can_number():
    words = [[f"part{part}-{n}" for n in range(100)] for part in range(3)]
    frames = [pd.DataFrame({"cell_id": pd.Categorical(mine)}) for mine in words]
    parts = [pa.Table.from_pandas(frame, preserve_index=False) for frame in frames]
    assert parts[0].schema.field("cell_id").type.index_type == pa.int8()  # as pandas has it
    assert concatenate(parts)["cell_id"].to_pylist() == [w for mine in words for w in mine]
