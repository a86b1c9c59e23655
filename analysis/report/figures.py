"""Figures of the page as inline SVG, each with its text alternative and its command."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree
from zlib import crc32

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

from analysis.figures import variance_by_layer
from analysis.figures.study import ClaimResult, study_factory
from analysis.figures.style import use_style
from analysis.load import Results
from analysis.theory_comparison import TheoryComparison, layer_table
from fanin.errors import FaninError

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
SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
REFERENCE = re.compile(r"(?<=url\(#)[^)]+")
# Text as shapes: what fonts a reader has doesn't matter. Fixed: the same figure, the same bytes.
STYLE: dict[Any, Any] = {"svg.fonttype": "path", "svg.hashsalt": "fanin"}
POINTS_TO_PIXELS = 4 / 3


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


def moments_by_layer(
    comparisons: Sequence[TheoryComparison], command: str
) -> tuple[list[Drawn], int]:
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


def _seen(comparisons: Sequence[TheoryComparison]) -> Iterator[str]:
    """Describe the panels, a sentence each."""
    yield f"{len(comparisons)} panels."
    for comparison in comparisons:
        rows = layer_table(comparison)
        if rows.empty:
            continue
        first, last = rows.iloc[0], rows.iloc[-1]
        words = (
            f"{comparison.setting.label}: measured {first['measured']:.2g} in layer "
            f"{first['layer']}, {last['measured']:.2g} in layer {last['layer']}"
        )
        theories = [
            theory for theory in ("he", "finite_width", "field") if rows[theory].notna().any()
        ]
        told = [f"{last[theory]:.2g} by {theory}" for theory in theories[:2]]
        yield f"{words}{'; predicted there: ' + ', '.join(told) if told else ''}."


@dataclass(frozen=True)
class Studied:
    """Outcome of a publication's claim, or why there is none (`skip_reason`)."""

    claim: str = ""
    conclusion: str = ""
    claim_results: Sequence[ClaimResult] = ()
    figures: Sequence[Drawn] = ()
    skip_reason: str | None = None


def studied(results: Results, command: str) -> Studied | None:
    """A sweep's study; None for a sweep that reproduces nothing."""
    use_style()
    try:
        make = study_factory(results)
        study = None if make is None else make()
    except FaninError as error:
        return Studied(skip_reason=str(error))
    if study is None:
        return None
    seen = " ".join(
        f"{h.description}: claimed {h.claimed}, measured {h.measured}." for h in study.claim_results
    )
    return Studied(
        claim=study.claim,
        conclusion=study.conclusion,
        claim_results=study.claim_results,
        figures=[
            drawn(name, figure, study.claim, seen, study.caption, command)
            for name, figure in study.figures.items()
        ],
    )


def inline_svg(figure: Figure, prefix: str, title: str, description: str) -> Markup:
    """Draw a figure.

    Parameters
    ----------
    prefix
        Begins every id in it, and so must differ from figure to figure of a page.
    title, description
        What those hear who can't see it.
    """
    drawn = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(
            drawn, format="svg", bbox_inches="tight", transparent=True, metadata={"Date": None}
        )
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(drawn.getvalue())
    _drop(root, "metadata")
    _drop(root, "style")  # it would be the whole page's
    for element in root.iter():
        for name, value in element.attrib.items():
            if name == "id":
                element.set(name, f"{prefix}-{value}")
            elif name == f"{{{XLINK}}}href" and value.startswith("#"):
                element.set(name, f"#{prefix}-{value[1:]}")
            else:
                element.set(name, REFERENCE.sub(rf"{prefix}-\g<0>", value))
    _describe(root, prefix, title, description)
    width = float(root.attrib.pop("width").removesuffix("pt")) * POINTS_TO_PIXELS
    del root.attrib["height"]
    root.set("style", f"width: {width:.0f}px")
    # Escaped by what wrote it.
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _drop(root: ElementTree.Element, tag: str) -> None:
    for parent in list(root.iter()):
        for child in parent.findall(f"{{{SVG}}}{tag}"):
            parent.remove(child)


def _describe(root: ElementTree.Element, prefix: str, title: str, description: str) -> None:
    words = {"title": title, "desc": description}
    for place, (tag, text) in enumerate(words.items()):
        element = ElementTree.Element(f"{{{SVG}}}{tag}", {"id": f"{prefix}-{tag}"})
        element.text = text
        root.insert(place, element)
    root.set("role", "img")
    root.set("aria-labelledby", f"{prefix}-title")
    root.set("aria-describedby", f"{prefix}-desc")
