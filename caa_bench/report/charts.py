"""Line charts as plain geometry: what the page's SVG is drawn from. Knows nothing of runs; pixels in, pixels out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from caa_bench.report.looks import Look

LABEL_GAP = 13.0
MARKERS = {
    "circle": "M-3.4 0a3.4 3.4 0 1 0 6.8 0a3.4 3.4 0 1 0 -6.8 0Z",
    "up": "M0 -4.2L4 3L-4 3Z",
    "down": "M0 4.2L4 -3L-4 -3Z",
    "square": "M-3.2 -3.2H3.2V3.2H-3.2Z",
    "diamond": "M0 -4.4L4.4 0L0 4.4L-4.4 0Z",
}


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A measured point with its interval (NaN: none) and the cell and column it shows.

    Args:
        band: the placebos' range there; NaN where there is none.
    """

    x: float
    y: float
    low: float
    high: float
    cell: str
    column: str
    title: str
    band: tuple[float, float] = (math.nan, math.nan)


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a chart.

    Args:
        fits: each fit's own point, where a dot is the mean of several.
    """

    name: str
    look: Look
    dots: tuple[Dot, ...]
    fits: tuple[Dot, ...] = ()
    faint: bool = False


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Size and axes in pixels and data units; `labels` is the room at the right for the series' names."""

    width: float
    height: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    labels: float = 8.0
    left: float = 30.0
    top: float = 8.0
    bottom: float = 22.0

    def x(self, value: float) -> float:
        """Pixel of a data value."""
        low, high = self.x_range
        return round(self.left + (value - low) / (high - low) * (self.width - self.left - self.labels), 2)

    def y(self, value: float) -> float:
        """Pixel of a data value; up is less."""
        low, high = self.y_range
        return round(self.top + (high - value) / (high - low) * (self.height - self.top - self.bottom), 2)


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A dot as drawn."""

    x: float
    y: float
    dot: Dot


@dataclass(frozen=True, kw_only=True)
class Line:
    """A series as drawn: SVG paths, marks, and its name with a leader from the last mark."""

    name: str
    look: Look
    faint: bool
    path: str
    interval: str
    placebo: str
    marker: str
    marks: tuple[Mark, ...]
    fits: tuple[Mark, ...]
    label_x: float
    label_y: float


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Everything that the template draws."""

    frame: Frame
    lines: tuple[Line, ...]
    title: str
    x_title: str
    y_title: str


def draw(series: Sequence[Series], frame: Frame, *, title: str, x_title: str, y_title: str) -> Chart:
    """Place every series; names at the right never overlap."""
    ends = [frame.y(one.dots[-1].y) if one.dots and not math.isnan(one.dots[-1].y) else frame.top for one in series]
    heights = spread(ends, low=frame.top + 4, high=frame.height - frame.bottom)
    lines = tuple(_line(one, frame, label_y=height) for one, height in zip(series, heights, strict=True))
    return Chart(frame=frame, lines=lines, title=title, x_title=x_title, y_title=y_title)


def spread(wanted: Sequence[float], *, low: float, high: float, gap: float = LABEL_GAP) -> list[float]:
    """Heights as near to the wanted ones as a gap between neighbors allows, kept inside where they fit."""
    order = sorted(range(len(wanted)), key=lambda place: wanted[place])
    placed = [0.0] * len(wanted)
    above = -math.inf
    for place in order:
        placed[place] = above = max(wanted[place], above + gap, low)
    below = math.inf
    for place in reversed(order):
        placed[place] = below = min(placed[place], below - gap, high)
    return [round(height, 2) for height in placed]


def ticks(low: float, high: float, *, most: int = 6) -> list[float]:
    """Round values that cover a range."""
    if high <= low:
        return [low]
    raw = (high - low) / most
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(number * step, 10) + 0.0 for number in range(first, last + 1)]


def _line(series: Series, frame: Frame, *, label_y: float) -> Line:
    marks = tuple(Mark(x=frame.x(d.x), y=frame.y(d.y), dot=d) for d in series.dots if not math.isnan(d.y))
    steps = [f"{'L' if place else 'M'}{mark.x} {mark.y}" for place, mark in enumerate(marks)]
    return Line(
        name=series.name,
        look=series.look,
        faint=series.faint,
        path="".join(steps),
        interval=_area([(d.x, d.low, d.high) for d in series.dots], frame),
        placebo=_area([(d.x, *d.band) for d in series.dots], frame),
        marker=MARKERS[series.look.marker],
        marks=marks,
        fits=tuple(Mark(x=frame.x(d.x), y=frame.y(d.y), dot=d) for d in series.fits if not math.isnan(d.y)),
        label_x=round(frame.width - frame.labels + 12, 2),
        label_y=label_y,
    )


def _area(band: Sequence[tuple[float, float, float]], frame: Frame) -> str:
    known = [place for place in band if not any(map(math.isnan, place))]
    if len(known) < 2:
        return ""
    upper = [f"{frame.x(x)} {frame.y(high)}" for x, _, high in known]
    lower = [f"{frame.x(x)} {frame.y(low)}" for x, low, _ in reversed(known)]
    return "M" + "L".join(upper + lower) + "Z"
