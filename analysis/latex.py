"""LaTeX tables: booktabs rules, every sign printed as it is."""

from __future__ import annotations

import re

import pandas as pd

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


def latex_table(frame: pd.DataFrame, caption: str, *, long: bool = False) -> str:
    """Render a frame as a `table` or, where it may be longer than a page, a `longtable`.

    Text stands to the left, numbers to the right with four decimals; a missing one is a dash.
    """
    numeric = [pd.api.types.is_numeric_dtype(kind) for kind in frame.dtypes]
    shown = frame.map(_cell).rename(columns=escape)
    return str(
        shown.to_latex(
            index=False,
            escape=False,
            caption=escape(caption),
            longtable=long,
            column_format="".join("r" if number else "l" for number in numeric),
        )
    )


def escape(text: str) -> str:
    r"""Return text that TeX prints as it is.

    >>> escape("a_b <0.001"), escape("-0.2")
    ('a\\_b \\textless{}0.001', '$-$0.2')
    """
    return MINUS.sub("$-$", text.translate(ESCAPED))


def _cell(value: object) -> str:
    if isinstance(value, float):
        return escape(f"{value:.4f}") if value == value else "--"
    return escape(str(value))
