"""The tables beside the page: every cell as CSV, means over seeds as LaTeX."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pandas as pd

from analysis.report.column import Column

ESCAPED = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "^": r"\^{}", "~": r"\~{}"}
)


def as_csv(columns: Sequence[Column]) -> bytes:
    """A row a cell."""
    text = io.StringIO()
    pd.DataFrame({column.key: column.values for column in columns}).to_csv(text, index=False)
    return text.getvalue().encode()


def as_latex(frame: pd.DataFrame, name: str) -> bytes:
    """`seeds_together` as a longtable with rules of booktabs, everything escaped."""
    style = frame.style.format(escape="latex", precision=4, na_rep="--")
    style = style.format_index(escape="latex", axis=1).hide(axis="index")
    numbers = [pd.api.types.is_numeric_dtype(kind) for kind in frame.dtypes]
    sweep = name.translate(ESCAPED)
    latex: str = style.to_latex(
        hrules=True,
        environment="longtable",
        column_format="".join("r" if number else "l" for number in numbers),
        caption=f"Sweep {sweep}: means over cells that differ only in seeds, and their sd.",
    )
    return latex.encode()
