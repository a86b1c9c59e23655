"""Colors, line styles and file formats of all figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.figure import Figure

FORMATS = ("pdf", "svg", "png")
PALETTE = sns.color_palette("colorblind")
# Each theory has its own dash pattern, so the lines differ in grayscale too.
MEASURED_COLOR = "0.45"  # grey
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
    """Set seaborn's paper theme, and keep text as text in PDF and SVG files."""
    mpl.use("Agg")
    sns.set_theme(context="paper", style="ticks", palette="colorblind")
    mpl.rcParams.update({"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "fanin"})


def panel_columns(panels: int) -> int:
    """Return the number of panel columns: at most three; four panels make a 2 x 2 grid.

    >>> [panel_columns(n) for n in (1, 2, 3, 4, 5)]
    [1, 2, 3, 2, 3]
    """
    return 2 if panels == 4 else min(panels, 3)


def escape_mathtext(text: str) -> str:
    r"""Escape dollar signs, which start a formula in matplotlib.

    >>> escape_mathtext("cost=$5")
    'cost=\\$5'
    """
    return text.replace("$", r"\$")


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as PDF, SVG and PNG; return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{suffix}" for suffix in FORMATS]
    for path in paths:
        figure.savefig(path, dpi=200, bbox_inches="tight")
    return paths
