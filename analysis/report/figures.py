"""The figures of a page, each with what it shows in words and the command that makes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from zlib import crc32

from markupsafe import Markup
from matplotlib.figure import Figure

from analysis.comparison import Comparison, table
from analysis.figures import variance_by_layer
from analysis.figures.style import use_style
from analysis.report.inline_svg import inline_svg

MOST = 12  # figures that a page holds; the command makes them all
CAPTION = (
    "Second moment of the pre-activations against depth{network}. A dot is one draw of all the "
    "weights; lines are predictions: He's and Glorot's product formula (dashed), mean field "
    "(dotted), the Gaussian field (solid). Each panel is one init and one activation."
)
MEASURED = (
    "Second moment of the pre-activations against depth{network}. A dot is one draw of all the "
    "weights; no theory was asked for. Each panel is one init and one activation."
)


@dataclass(frozen=True)
class Drawn:
    """A figure of the page.

    Attributes
    ----------
    name
        Its files' name under `figures/`.
    """

    name: str
    svg: Markup
    caption: str
    command: str


def drawn(name: str, figure: Figure, title: str, seen: str, caption: str, command: str) -> Drawn:
    """A figure, drawn.

    Parameters
    ----------
    title, seen
        A name, and what is to be seen, for those who can't.
    """
    prefix = f"figure-{crc32(name.encode()):08x}"
    return Drawn(name, inline_svg(figure, prefix, title, seen), caption, command)


def moments_by_layer(comparisons: Sequence[Comparison], command: str) -> tuple[list[Drawn], int]:
    """The sweep's figures, and how many more there are than a page holds."""
    use_style()
    networks = variance_by_layer.by_network(comparisons) if comparisons else {}
    shown = dict(list(networks.items())[:MOST])
    pictures = []
    for network, mine in shown.items():
        where = f", {network}" if network else ""
        theory = any(not comparison.predicted.empty for comparison in mine)
        name, figure = variance_by_layer.file_name(network), variance_by_layer.network_figure(mine)
        caption = (CAPTION if theory else MEASURED).format(network=where)
        title = f"Second moments by layer{where}"
        pictures.append(drawn(name, figure, title, " ".join(_seen(mine)), caption, command))
    return pictures, len(networks) - len(shown)


def _seen(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """What the panels show, a sentence each."""
    yield f"{len(comparisons)} panels."
    for comparison in comparisons:
        rows = table(comparison)
        if rows.empty:
            continue
        first, last = rows.iloc[0], rows.iloc[-1]
        words = (
            f"{comparison.setting.label}: measured {first['measured']:.2g} in layer "
            f"{first['layer']}, {last['measured']:.2g} in layer {last['layer']}"
        )
        rungs = [rung for rung in ("he", "finite", "field") if rows[rung].notna().any()]
        told = [f"{last[rung]:.2g} by {rung}" for rung in rungs[:2]]
        yield f"{words}{'; predicted there: ' + ', '.join(told) if told else ''}."
