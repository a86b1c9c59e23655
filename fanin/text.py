"""Rich renderables as plain text and as HTML, tables that fit a width, and number formats."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from math import isinf, isnan

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement

MIN_WIDTH = 100  # columns of the widest table
UNLIMITED = 10_000  # columns
PLAIN_FROM, PLAIN_BELOW = 1e-3, 1e5  # smaller and larger numbers have an exponent
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


class Fitted:
    """The first of several renderables that is narrow enough for the console; else the last one.

    Parameters
    ----------
    variants
        Renderables with the same contents, from the widest to the narrowest.
    """

    def __init__(self, variants: Sequence[RenderableType]) -> None:
        self.variants = variants

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        unlimited = options.update(width=UNLIMITED)
        for variant in self.variants[:-1]:
            if Measurement.get(console, unlimited, variant).maximum <= options.max_width:
                yield variant
                return
        yield self.variants[-1]


def shorten_path(name: str, width: int) -> str:
    """Leave out the beginning of a module path that is longer than a column.

    Examples
    --------
    >>> shorten_path("features.stage2.conv1", 14), shorten_path("fc", 14)
    ('…stage2.conv1', 'fc')
    """
    if len(name) <= width:
        return name
    end = name[-(width - 1) :]
    _, dot, rest = end.partition(".")
    return f"…{rest if dot and rest else end}"


def terminal_width() -> int:
    """Return the width of the terminal, but at least that of the widest table."""
    # A narrower table would truncate numbers; a narrow terminal wraps the lines instead.
    return max(MIN_WIDTH, Console().width)


def number(value: float, digits: int = 3) -> str:
    """Format a number to some significant digits; NaN gives an empty string.

    Examples
    --------
    >>> number(463.2, 2), number(23_456.0), number(6.5e38), number(0.00012), number(float("nan"))
    ('460', '23,500', '6.5e38', '1.2e-4', '')
    """
    if isnan(value):
        return ""
    rounded = float(f"{value:.{digits}g}")
    if rounded == 0 or isinf(rounded) or PLAIN_FROM <= abs(rounded) < PLAIN_BELOW:
        return f"{rounded:,.0f}" if 1e3 <= abs(rounded) < PLAIN_BELOW else f"{rounded:g}"
    mantissa, _, exponent = f"{rounded:e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def percent(share: float) -> str:
    """Format a fraction as a percentage; NaN gives an empty string."""
    return "" if isnan(share) else f"{share:.0%}"
