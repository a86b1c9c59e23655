"""Figures of the report as inline SVG, with text alternatives and commands."""

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

MAX_FIGURES = 12  # on the page; `analysis.figures` writes all of them
CAPTION = (
    "Second moment of the pre-activations against depth{network}. A dot is one draw of all "
    "weights; lines are predictions: theory `he` (the He/Glorot product formula, dashed), theory "
    "`mean_field` (dotted), theory `field` (solid). One panel per init and activation."
)
CAPTION_WITHOUT_THEORY = (
    "Second moment of the pre-activations against depth{network}. A dot is one draw of all "
    "weights. One panel per init and activation. The predictions were skipped or failed."
)
SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
REFERENCE = re.compile(r"(?<=url\(#)[^)]+")
# Text as paths needs no fonts. A fixed salt makes the output reproducible.
STYLE: dict[Any, Any] = {"svg.fonttype": "path", "svg.hashsalt": "fanin"}
POINTS_TO_PIXELS = 4 / 3


@dataclass(frozen=True)
class PageFigure:
    """A figure of the page; `name` is the stem of its files in `figures/`."""

    name: str
    svg: Markup
    caption: str
    command: str


def make_page_figure(
    name: str, figure: Figure, title: str, description: str, caption: str, command: str
) -> PageFigure:
    """Render a figure; title and description are its text alternative."""
    prefix = f"figure-{crc32(name.encode()):08x}"
    return PageFigure(name, inline_svg(figure, prefix, title, description), caption, command)


def moments_by_layer(
    comparisons: Sequence[TheoryComparison], command: str
) -> tuple[list[PageFigure], int]:
    """Return the figures for the page, and the number of figures left out."""
    use_style()
    networks = variance_by_layer.by_network(comparisons) if comparisons else {}
    page_figures = []
    for network, panels in list(networks.items())[:MAX_FIGURES]:
        suffix = f", {network}" if network else ""
        theory = any(not comparison.predicted.empty for comparison in panels)
        name = variance_by_layer.file_name(network)
        figure = variance_by_layer.network_figure(panels)
        caption = (CAPTION if theory else CAPTION_WITHOUT_THEORY).format(network=suffix)
        title = f"Second moments by layer{suffix}"
        description = " ".join(_panel_sentences(panels))
        page_figures.append(make_page_figure(name, figure, title, description, caption, command))
    return page_figures, len(networks) - len(page_figures)


def _panel_sentences(comparisons: Sequence[TheoryComparison]) -> Iterator[str]:
    """Describe each panel in one sentence."""
    yield f"{len(comparisons)} panels."
    for comparison in comparisons:
        rows = layer_table(comparison)
        if rows.empty:
            continue
        first, last = rows.iloc[0], rows.iloc[-1]
        measured = (
            f"{comparison.setting.label}: measured {first['measured']:.2g} in layer "
            f"{first['layer']}, {last['measured']:.2g} in layer {last['layer']}"
        )
        theories = [
            theory for theory in ("he", "finite_width", "field") if rows[theory].notna().any()
        ]
        predicted = [f"{last[theory]:.2g} by {theory}" for theory in theories[:2]]
        suffix = f"; predicted there: {', '.join(predicted)}" if predicted else ""
        yield f"{measured}{suffix}."


@dataclass(frozen=True)
class StudySection:
    """Claims of a publication and their conclusion, or the reason for none (`skip_reason`)."""

    claim: str = ""
    statement: str = ""
    claim_results: Sequence[ClaimResult] = ()
    figures: Sequence[PageFigure] = ()
    warning: str = ""
    skip_reason: str | None = None


def build_study_section(results: Results, command: str) -> StudySection | None:
    """Build the section on a sweep's study; None if the sweep reproduces no publication."""
    use_style()
    try:
        factory = study_factory(results)
        study = None if factory is None else factory()
    except FaninError as error:
        return StudySection(skip_reason=str(error))
    if study is None:
        return None
    description = " ".join(
        f"{result.description}: claimed {result.claimed}, measured {result.measured}."
        for result in study.claim_results
    )
    return StudySection(
        claim=study.claim,
        statement=study.statement,
        claim_results=study.claim_results,
        warning=study.warning,
        figures=[
            make_page_figure(name, figure, study.claim, description, study.caption, command)
            for name, figure in study.figures.items()
        ],
    )


def inline_svg(figure: Figure, prefix: str, title: str, description: str) -> Markup:
    """Render a figure as an SVG element for HTML.

    Parameters
    ----------
    figure
        The figure.
    prefix
        Prefix of all ids in the SVG; must be unique on the page.
    title, description
        Text alternative for screen readers.
    """
    output = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(
            output, format="svg", bbox_inches="tight", transparent=True, metadata={"Date": None}
        )
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(output.getvalue())
    _remove(root, "metadata")
    _remove(root, "style")  # it would apply to the whole page
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
    # ElementTree escapes the text.
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _remove(root: ElementTree.Element, tag: str) -> None:
    for parent in list(root.iter()):
        for child in parent.findall(f"{{{SVG}}}{tag}"):
            parent.remove(child)


def _describe(root: ElementTree.Element, prefix: str, title: str, description: str) -> None:
    texts = {"title": title, "desc": description}
    for position, (tag, text) in enumerate(texts.items()):
        element = ElementTree.Element(f"{{{SVG}}}{tag}", {"id": f"{prefix}-{tag}"})
        element.text = text
        root.insert(position, element)
    root.set("role", "img")
    root.set("aria-labelledby", f"{prefix}-title")
    root.set("aria-describedby", f"{prefix}-desc")
