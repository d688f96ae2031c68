"""Figures as files and as part of the page: SVG, PNG and the CSV they are drawn from, the same bytes for the same rows.

Knows nothing of runs.
"""

from __future__ import annotations

import io
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_bench.storage.files import csv_cell, write_atomic

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#222222"
STYLE: dict[str, Any] = {
    "svg.hashsalt": "caa_bench",  # else every SVG has ids of its own
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that the bytes do not depend on the machine's fonts
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.facecolor": "none",
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}
DPI = 200
SCALE = 1.39
"""Pixels a point in a page: the 8 points of a label are 11 pixels."""
SVG = "{http://www.w3.org/2000/svg}"
HREF = "{http://www.w3.org/1999/xlink}href"


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure and the numbers in it.

    Args:
        name: of its files, and before every id of it in a page.
        data: the lines that it is drawn from.
        caption: what its axes, bands and marks are.
        titles: id of an artist (`set_gid`) -> what is shown when the pointer rests on it.
        series: id of an artist -> what it belongs to: a click on one shows that series alone. An id that begins with
            `band` is an interval, which a page shows for a series that stands alone.
        place: where on the page it stands beside the answer: "hero" or "side"; "" in its section.
        shows: drawings of one section and place that differ in this are one chart with a switch.
        cross: a line follows the pointer, and what is shown is every mark at its x.
    """

    name: str
    figure: Figure
    data: pd.DataFrame
    caption: str = ""
    titles: Mapping[str, str] = field(default_factory=dict)
    series: Mapping[str, str] = field(default_factory=dict)
    place: str = ""
    shows: str = ""
    cross: bool = False


@dataclass(frozen=True, kw_only=True)
class Inline:
    """A drawing that was saved, as part of a page: SVG in which all text is escaped."""

    name: str
    svg: str
    caption: str
    place: str
    shows: str


def to_csv(table: pd.DataFrame) -> str:
    """CSV text: missing is empty, 9 significant digits, and no cell that a spreadsheet would run as a formula."""
    return str(table.map(csv_cell).to_csv(index=False, float_format="%.9g", lineterminator="\n"))


def save_drawings(drawn: Callable[[], Iterable[Drawing]], folder: Path) -> list[Inline]:
    """Each drawing as .svg, .png and .csv, drawn and saved in one style; and as part of a page (`inlined`)."""
    found = []
    with in_style():
        for drawing in drawn():
            svg = _saved(drawing.figure, "svg", {"Date": None})
            drawing.figure.set_layout_engine("none")  # the PNG is laid out as the SVG is, and not once more
            write_atomic(folder / f"{drawing.name}.csv", to_csv(drawing.data))
            write_atomic(folder / f"{drawing.name}.svg", svg)
            write_atomic(folder / f"{drawing.name}.png", _saved(drawing.figure, "png", {"Software": None}))
            told = {name: getattr(drawing, name) for name in ("name", "caption", "place", "shows")}
            found.append(Inline(svg=inlined(svg, drawing), **told))
    return found


@contextmanager
def in_style() -> Iterator[None]:
    """Figures made inside look alike on every machine, whatever matplotlib is set to there."""
    import matplotlib as mpl

    with mpl.rc_context({**mpl.rcParamsDefault, "backend": "agg", **STYLE}):
        yield


def drawing_svg(drawing: Drawing) -> str:
    """A drawing as SVG for a page, without a file."""
    return inlined(_saved(drawing.figure, "svg", {"Date": None}), drawing)


def inlined(svg: bytes, drawing: Drawing) -> str:
    """matplotlib's SVG as part of a page under a strict policy.

    Styles become attributes (the policy allows no inline style), ids begin with the drawing's name so that those of
    two figures differ, ink takes the page's color, the white ground goes, and each artist in `titles` gets its text,
    escaped.
    """
    root = ET.fromstring(svg)  # noqa: S314 - written by matplotlib a moment ago
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{SVG}style", f"{SVG}metadata") or child.get("id") == "patch_1":
                parent.remove(child)
    for element in root.iter():
        _inline_style(element, drawing.name)
    for element in list(root.iter()):
        own = (element.get("id") or "").removeprefix(f"{drawing.name}-")
        if (title := drawing.titles.get(own)) is not None:
            element.set("class", "mark")
            ET.SubElement(element, f"{SVG}title").text = title
        if own in drawing.series:
            element.set("data-series", drawing.series[own])
            if own.startswith("band"):
                element.set("class", "band")
    width = float(root.attrib["width"].removesuffix("pt"))
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "width": f"{width * SCALE:.0f}",
        "role": "img",
        "stroke-linejoin": "round",
        "stroke-linecap": "butt",
        **({"data-cross": ""} if drawing.cross else {}),
        "aria-label": f"{drawing.caption or drawing.name}; the numbers are in {drawing.name}.csv",
    }
    for element in root.iter():
        element.tag = element.tag.removeprefix(SVG)
    return ET.tostring(root, encoding="unicode")


def _inline_style(element: ET.Element, prefix: str) -> None:
    """Style declarations as attributes of their own; ids and references with the prefix."""
    for declaration in filter(None, element.attrib.pop("style", "").split(";")):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name == "font":
            size, _, family = value.partition(" ")
            element.set("font-size", size)
            element.set("font-family", family.replace("'", ""))
        else:
            element.set(name, value)
    if (target := element.attrib.pop(HREF, None)) is not None:
        element.set("href", f"#{prefix}-{target.removeprefix('#')}")
    if "id" in element.attrib:
        element.set("id", f"{prefix}-{element.attrib['id']}")
    for name, value in list(element.attrib.items()):
        value = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", value)
        element.set(name, "currentColor" if value == INK else value)
    if element.tag == f"{SVG}text" and "fill" not in element.attrib:
        element.set("fill", "currentColor")


def panels(height: int, width: int, *, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """A figure of `height` x `width` axes, row by row; size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(height, width, squeeze=False).flat)


def spread(wanted: Sequence[float], *, low: float, high: float, gap: float) -> list[float]:
    """Heights as near to the wanted ones as a gap between neighbors allows, kept inside where they fit."""
    order = sorted(range(len(wanted)), key=lambda place: wanted[place])
    placed = [0.0] * len(wanted)
    above = -math.inf
    for place in order:
        placed[place] = above = max(wanted[place], above + gap, low)
    below = math.inf
    for place in reversed(order):
        placed[place] = below = min(placed[place], below - gap, high)
    return placed


def thinned(values: Sequence[float], *, most: int) -> list[float]:
    """Of ascending axis values those that can be labelled without touching: 0 and the ends, then what has room."""
    span = (values[-1] - values[0]) or 1.0
    kept: list[float] = []
    for value in sorted(values, key=lambda x: (x != 0, x not in (values[0], values[-1]), -abs(x))):
        if all(abs(value - other) >= span / most for other in kept):
            kept.append(value)
    return sorted(kept)


def _saved(figure: Figure, kind: str, metadata: dict[str, None]) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=DPI, metadata=metadata)
    return buffer.getvalue()
