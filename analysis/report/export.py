"""Tables beside the page: every cell as CSV, means over seeds as LaTeX."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pandas as pd

from analysis.latex import latex_table
from analysis.report.cells import METRICS, Column
from experiments.config.groups import SEEDS


def as_csv(columns: Sequence[Column]) -> bytes:
    """A row a cell."""
    text = io.StringIO()
    pd.DataFrame({column.key: column.values for column in columns}).to_csv(text, index=False)
    return text.getvalue().encode()


def as_latex(frame: pd.DataFrame, name: str) -> bytes:
    """`seeds_together` as a longtable."""
    caption = f"Sweep {name}: means over cells that differ only in seeds, and their sd."
    return latex_table(frame, caption, long=True).encode()


def seeds_together(columns: Sequence[Column]) -> pd.DataFrame:
    """One row for all seeds of a configuration.

    Returns
    -------
    pandas.DataFrame
        What varies, seeds aside; `cells`; a column for each outcome, how many; and of each metric
        the mean and, `sd`, the standard deviation over the cells that have it.
    """
    frame = pd.DataFrame({column.key: column.values for column in columns})
    axes = {c.key: c for c in columns if c.role == "varies" and c.key not in SEEDS}
    keys = list(axes)
    for key, column in axes.items():
        frame[key] = [column.shown(row) for row in range(len(frame))]
    metrics = [key for key in METRICS if key in frame]
    frame[metrics] = frame[metrics].apply(pd.to_numeric)
    groups = frame.groupby(keys or (lambda _: 0), sort=False)
    found = frame.loc[groups.head(1).index, keys].reset_index(drop=True)
    found["cells"] = groups.size().to_numpy()
    for outcome in frame["outcome"].value_counts().index:
        mine = (frame["outcome"] == outcome).groupby(groups.ngroup()).sum()
        found[outcome] = mine.to_numpy()
    for metric in metrics:
        found[metric] = groups[metric].mean().to_numpy()
        found[f"{metric} sd"] = groups[metric].std().to_numpy()
    return found
