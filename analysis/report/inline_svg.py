"""A matplotlib figure as an SVG element for a page: no font is needed, and no name clashes."""

from __future__ import annotations

import io
import re
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
REFERENCE = re.compile(r"(?<=url\(#)[^)]+")
# Text as shapes: what fonts a reader has doesn't matter. Fixed: the same figure, the same bytes.
STYLE: dict[Any, Any] = {"svg.fonttype": "path", "svg.hashsalt": "fanin"}
POINTS_TO_PIXELS = 4 / 3


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
