"""LaTeX tables with booktabs rules and escaped text."""

from __future__ import annotations

import re

import pandas as pd

# TeX's default font encoding prints `<`, `>` and `|` as other characters.
# `[` after `\\` would start an optional length.
ESCAPED = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
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
    """Render a frame as a `table`, or as a `longtable` that may span pages.

    Text is left-aligned; numbers are right-aligned with four decimals; a missing value is a dash.
    """
    numeric = [pd.api.types.is_numeric_dtype(dtype) for dtype in frame.dtypes]
    escaped = frame.map(_cell).rename(columns=escape)
    return str(
        escaped.to_latex(
            index=False,
            escape=False,
            caption=escape(caption),
            longtable=long,
            column_format="".join("r" if is_number else "l" for is_number in numeric),
        )
    )


def escape(text: str) -> str:
    r"""Escape text for LaTeX.

    >>> escape("a_b <0.001"), escape("-0.2")
    ('a\\_b \\textless{}0.001', '$-$0.2')
    """
    return MINUS.sub("$-$", text.translate(ESCAPED))


def _cell(value: object) -> str:
    if isinstance(value, float):
        return escape(f"{value:.4f}") if value == value else "--"
    return escape(str(value))
