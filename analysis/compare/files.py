"""Files of a comparison in the sweep's folder: CSV, LaTeX, figures."""

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

TUPLES = {"best", "tried"}  # in CSV with a space between their numbers


def write_files(compared: InitComparison, folder: Path) -> Iterator[Path]:
    """Write tables and figures, named after the spec; yield their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    name = file_name(compared)
    for what, frame in csv_frames(compared).items():
        path = folder / f"{name}{what}.csv"
        frame.to_csv(path, index=False)
        yield path
    path = folder / f"{name}.tex"
    path.write_text(latex(compared), encoding="utf-8")
    yield path
    use_style()
    for figure_name, figure in figures(compared):
        yield from save(figure, folder, figure_name)


def file_name(compared: InitComparison) -> str:
    """`init-test_accuracy`, `init-test_accuracy-within-model`, `init-test_accuracy-tune-none`."""
    spec = compared.spec
    within = ["within", *spec.within] if spec.within else []
    tune = ["tune", spec.tune or "none"] if spec.tune != ComparisonSpec.tune else []
    return re.sub(r"[^\w.=-]+", "_", "-".join([spec.by, spec.metric, *within, *tune]))


def figures(compared: InitComparison) -> Iterator[tuple[str, Figure]]:
    """The comparison's figures, by name: the standings, and where a value was tuned, its map."""
    name = file_name(compared)
    yield name, standings_figure(compared)
    if compared.values["tuned"].nunique() > 1:
        yield f"{name}-by-{compared.spec.tune}", tuned_values_figure(compared)


def csv_frames(compared: InitComparison) -> dict[str, pd.DataFrame]:
    """All numbers, unrounded, by what the file's name ends in."""
    return {
        "": _joined(compared, "standings"),
        "-pairs": _joined(compared, "pairs"),
        "-scores": compared.scores,
        "-values": compared.values,
    }


def _joined(compared: InitComparison, what: str) -> pd.DataFrame:
    frames = [getattr(group, what).assign(group=group.title) for group in compared.groups]
    frame = pd.concat(frames, ignore_index=True)
    for column in TUPLES & set(frame):
        frame[column] = [" ".join(map(repr, values)) for values in frame[column]]
    return frame[["group", *frame.columns.drop("group")]]


def latex(compared: InitComparison) -> str:
    """Booktabs tables, one a group, and one of the ranks; those of groups fit the line's width."""
    needs = "Needs \\usepackage{booktabs,graphicx}"
    comment = "".join(f"% {line}\n" for line in [needs, *legend(compared).split(". ")])
    tables = [
        _fitted(latex_table(standings_table(group, compared.spec), group.title))
        for group in compared.groups
    ]
    if compared.overall is not None:
        tables.append(latex_table(ranks_table(compared), "ranks over all settings"))
    return "\n".join([comment, *tables])


def _fitted(table: str) -> str:
    """As wide as a line at most: eleven columns would run off the page."""
    return table.replace(
        "\\begin{tabular}", "\\resizebox{\\linewidth}{!}{%\n\\begin{tabular}"
    ).replace("\\end{tabular}", "\\end{tabular}}")
