"""Style of all figures, and saving them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.figure import Figure

FORMATS = ("pdf", "svg", "png")
PALETTE = sns.color_palette("colorblind")
# Told apart in grey too: each theory has a dash of its own.
MEASURED = "0.45"  # grey
THEORY_LINES: dict[str, dict[str, Any]] = {
    "he": {
        "color": PALETTE[3],
        "linestyle": (0, (4, 2)),
        "zorder": 3,
        "label": "He / Glorot product formula",
    },
    "mean_field": {"color": PALETTE[0], "linestyle": (0, (1, 1)), "label": "mean field"},
    "field": {
        "color": "black",
        "linestyle": "-",
        "linewidth": 1.0,
        "label": "fanin: Gaussian field",
    },
}


def use_style() -> None:
    """Set seaborn's theme for papers; fonts stay text in PDF and SVG."""
    mpl.use("Agg")
    sns.set_theme(context="paper", style="ticks", palette="colorblind")
    mpl.rcParams.update({"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "fanin"})


def panels_in_a_row(panels: int) -> int:
    """Number of panels side by side: three at most, and four as two by two.

    >>> [panels_in_a_row(n) for n in (1, 2, 3, 4, 5)]
    [1, 2, 3, 2, 3]
    """
    return 2 if panels == 4 else min(panels, 3)


def plain(text: str) -> str:
    """Text as it is: a dollar sign begins no formula.

    >>> plain("cost=$5")
    'cost=\\\\$5'
    """
    return text.replace("$", r"\$")


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as PDF, SVG and PNG; return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{suffix}" for suffix in FORMATS]
    for path in paths:
        figure.savefig(path, dpi=200, bbox_inches="tight")
    return paths
