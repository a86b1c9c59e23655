"""Rich renderables as plain text and as HTML, and number formats."""

from __future__ import annotations

from io import StringIO
from math import isnan

from rich.console import Console, RenderableType

MIN_WIDTH = 100  # columns of the widest table
HTML_WIDTH = 120  # columns in notebooks, which scroll
HTML = '<pre style="white-space: pre; line-height: normal">{code}</pre>'


def to_text(renderable: RenderableType, width: int = MIN_WIDTH) -> str:
    """Return the renderable as text without colors, for `str` and logs."""
    out = StringIO()
    console = Console(
        file=out,
        width=width,
        markup=False,
        highlight=False,
        color_system=None,
        force_jupyter=False,
    )
    console.print(renderable)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def to_html(renderable: RenderableType, width: int = HTML_WIDTH) -> str:
    """Return the renderable as HTML with colors, for notebooks."""
    # In a notebook, rich would also display the renderable.
    console = Console(
        file=StringIO(),
        record=True,
        width=width,
        markup=False,
        highlight=False,
        force_jupyter=False,
    )
    console.print(renderable)
    return console.export_html(inline_styles=True, code_format=HTML)


def terminal_width() -> int:
    """Return the width of the terminal, but at least that of the widest table."""
    # A narrower table would truncate numbers; a narrow terminal wraps the lines instead.
    return max(MIN_WIDTH, Console().width)


def number(value: float, digits: int = 3) -> str:
    """Format a number to some significant digits; NaN gives an empty string."""
    return "" if isnan(value) else f"{value:.{digits}g}"


def percent(share: float) -> str:
    """Format a fraction as a percentage; NaN gives an empty string."""
    return "" if isnan(share) else f"{share:.0%}"
