"""Output files of a comparison in the sweep's folder: CSV, LaTeX, figures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis.compare.comparison import InitComparison
from analysis.compare.figures import standings_figure, tuned_values_figure
from analysis.compare.spec import ComparisonSpec
from analysis.compare.tables import legend, ranks_table, standings_table
from analysis.figures.style import save, use_style
from analysis.latex import latex_table

TUPLE_COLUMNS = {"best", "tried"}  # written to CSV as numbers separated by spaces


def write_files(comparison: InitComparison, folder: Path) -> Iterator[Path]:
    """Write tables and figures, named after the specification; yield their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    name = file_name(comparison)
    for suffix, frame in csv_frames(comparison).items():
        path = folder / f"{name}{suffix}.csv"
        frame.to_csv(path, index=False)
        yield path
    path = folder / f"{name}.tex"
    path.write_text(latex(comparison), encoding="utf-8")
    yield path
    use_style()
    for figure_name, figure in figures(comparison):
        yield from save(figure, folder, figure_name)


def file_name(comparison: InitComparison) -> str:
    """Return the files' stem: `init-test_accuracy-within-model`, `init-test_accuracy-tune-none`."""
    spec = comparison.spec
    within = ["within", *spec.within] if spec.within else []
    tune = ["tune", spec.tune or "none"] if spec.tune != ComparisonSpec.tune else []
    return re.sub(r"[^\w.=-]+", "_", "-".join([spec.by, spec.metric, *within, *tune]))


def figures(comparison: InitComparison) -> Iterator[tuple[str, Figure]]:
    """Yield the figures by name: the standings and, with a tuned axis, the scores by its value."""
    name = file_name(comparison)
    yield name, standings_figure(comparison)
    if comparison.values["tuned"].nunique() > 1:
        yield f"{name}-by-{comparison.spec.tune}", tuned_values_figure(comparison)


def csv_frames(comparison: InitComparison) -> dict[str, pd.DataFrame]:
    """Return the tables with unrounded numbers, by the suffix of the file's name."""
    return {
        "": _join_groups(comparison, "standings"),
        "-pairs": _join_groups(comparison, "pairs"),
        "-scores": comparison.scores,
        "-values": comparison.values,
    }


def _join_groups(comparison: InitComparison, attribute: str) -> pd.DataFrame:
    frames = [getattr(group, attribute).assign(group=group.title) for group in comparison.groups]
    frame = pd.concat(frames, ignore_index=True)
    for column in TUPLE_COLUMNS & set(frame):
        frame[column] = [" ".join(map(repr, values)) for values in frame[column]]
    return frame[["group", *frame.columns.drop("group")]]


def latex(comparison: InitComparison) -> str:
    """Return LaTeX tables: one per group, scaled to the line width, and one of the ranks."""
    needs = "Needs \\usepackage{booktabs,graphicx}"
    comment = "".join(f"% {line}\n" for line in [needs, *legend(comparison).split(". ")])
    tables = [
        _fit_to_line(latex_table(standings_table(group, comparison.spec), group.title))
        for group in comparison.groups
    ]
    if comparison.overall is not None:
        tables.append(latex_table(ranks_table(comparison), "ranks over all settings"))
    return "\n".join([comment, *tables])


def _fit_to_line(table: str) -> str:
    """Scale a table to the line width, because eleven columns are wider than a page."""
    return table.replace(
        "\\begin{tabular}", "\\resizebox{\\linewidth}{!}{%\n\\begin{tabular}"
    ).replace("\\end{tabular}", "\\end{tabular}}")
