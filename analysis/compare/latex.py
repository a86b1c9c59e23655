"""A comparison's tables in LaTeX."""

from __future__ import annotations

import re

import pandas as pd

from analysis.compare.comparison import Compared
from analysis.compare.tables import legend, ranks_table, standings_table

# `<`, `>` and `|` are other signs in TeX's own font encoding; `[` after `\\` begins a length.
ESCAPED = str.maketrans(
    {sign: f"\\{sign}" for sign in "&%$#_{}"}
    | {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "[": "{[}",
        "–": "--",
    }
)
MINUS = re.compile(r"(?<![\w.)-])-(?=\d)")


def latex(compared: Compared) -> str:
    """Booktabs tables, one a group, and one of the ranks; those of groups fit the line's width."""
    needs = "Needs \\usepackage{booktabs,graphicx}"
    comment = "".join(f"% {line}\n" for line in [needs, *legend(compared).split(". ")])
    tables = [
        _fitted(_table(standings_table(group, compared.question), group.title))
        for group in compared.groups
    ]
    if compared.overall is not None:
        tables.append(_table(ranks_table(compared), "ranks over all settings"))
    return "\n".join([comment, *tables])


def escaped(text: str) -> str:
    r"""Text that TeX prints as it is.

    >>> escaped("a_b <0.001"), escaped("-0.2")
    ('a\\_b \\textless{}0.001', '$-$0.2')
    """
    return MINUS.sub("$-$", text.translate(ESCAPED))


def _table(frame: pd.DataFrame, caption: str) -> str:
    """The frame, all text."""
    shown = frame.map(escaped).rename(columns=escaped)
    return str(shown.to_latex(index=False, escape=False, caption=escaped(caption)))


def _fitted(table: str) -> str:
    """As wide as a line at most: eleven columns would run off the page."""
    return table.replace(
        "\\begin{tabular}", "\\resizebox{\\linewidth}{!}{%\n\\begin{tabular}"
    ).replace("\\end{tabular}", "\\end{tabular}}")
