"""A figure as inline SVG: the same bytes every time, with a title and description for those who cannot see it."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "deepprobe",
    "text.usetex": False,
    "axes.unicode_minus": True,
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "savefig.dpi": 150,
    "savefig.facecolor": "white",
}
FONT = "'DejaVu Sans', Verdana, sans-serif"


def inline_svg(draw: Callable[[Axes], object], *, name: str, alt: str, size: tuple[float, float] = (5.8, 3.9)) -> str:
    """Draw on new axes and return the picture as one SVG element for an HTML page.

    The user's matplotlib settings do not matter and are left as they are.

    Args:
        draw: Draws on the axes it is given.
        name: Prefix for every id, unique on the page, of letters, digits and hyphens.
        alt: What the picture shows, in words.
        size: Width and height in inches.

    Returns:
        Markup without XML declaration, scripts, style sheets, metadata or references to the outside.
    """
    buffer = io.StringIO()
    with mpl.rc_context({**mpl.rcParamsDefault, **SETTINGS}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure = mpl.figure.Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
        plt.close(figure)
    return _embedded(buffer.getvalue(), name=name, alt=alt)


def _embedded(text: str, *, name: str, alt: str) -> str:
    """The SVG file as an element with its own ids, a title and a description."""
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(text)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in {f"{{{SVG}}}metadata", f"{{{SVG}}}style"}:
                parent.remove(child)
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            element.set(key, _own(key, value, name))
    for position, (tag, words) in enumerate((("title", name.replace("-", " ")), ("desc", alt))):
        child = ElementTree.Element(f"{{{SVG}}}{tag}", {"id": f"{name}-{tag}"})
        child.text = words
        root.insert(position, child)
    for key in ("width", "height"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-label", alt)
    return ElementTree.tostring(root, encoding="unicode")


def _own(key: str, value: str, name: str) -> str:
    """An attribute whose ids, and references to ids, belong to this picture alone."""
    if key == "id":
        return f"{name}-{value}"
    if key == f"{{{XLINK}}}href" and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    if key == "style":
        return value.replace("'DejaVu Sans'", FONT)
    return value.replace("url(#", f"url(#{name}-")
