"""Downloads of the report: every cell as CSV, means over seeds as LaTeX."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pandas as pd

from analysis.latex import latex_table
from analysis.report.cells import METRIC_DECIMALS, Column
from experiments.config.groups import SEEDS


def cells_csv(columns: Sequence[Column]) -> bytes:
    """Return a CSV file with one row per cell."""
    text = io.StringIO()
    pd.DataFrame({column.key: column.values for column in columns}).to_csv(text, index=False)
    return text.getvalue().encode()


def seed_means_latex(frame: pd.DataFrame, name: str) -> bytes:
    """Return the frame of `average_over_seeds` as a LaTeX longtable."""
    caption = f"Sweep {name}: mean and sd over cells that differ only in seeds."
    return latex_table(frame, caption, long=True).encode()


def average_over_seeds(columns: Sequence[Column]) -> pd.DataFrame:
    """Average the metrics over cells that differ only in seeds.

    Returns
    -------
    pandas.DataFrame
        One row per configuration. Columns: the varying keys except seeds; `cells`, the number of
        cells; each outcome, with its count; each metric, with its mean over the cells that have it,
        and `METRIC sd`, with its standard deviation.
    """
    frame = pd.DataFrame({column.key: column.values for column in columns})
    axes = {c.key: c for c in columns if c.role == "varies" and c.key not in SEEDS}
    keys = list(axes)
    for key, column in axes.items():
        frame[key] = [column.display(row) for row in range(len(frame))]
    metrics = [key for key in METRIC_DECIMALS if key in frame]
    frame[metrics] = frame[metrics].apply(pd.to_numeric)
    groups = frame.groupby(keys or (lambda _: 0), sort=False)
    means = frame.loc[groups.head(1).index, keys].reset_index(drop=True)
    means["cells"] = groups.size().to_numpy()
    for outcome in frame["outcome"].value_counts().index:
        counts = (frame["outcome"] == outcome).groupby(groups.ngroup()).sum()
        means[outcome] = counts.to_numpy()
    for metric in metrics:
        means[metric] = groups[metric].mean().to_numpy()
        means[f"{metric} sd"] = groups[metric].std().to_numpy()
    return means
