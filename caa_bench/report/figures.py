"""Figures for a paper: SVG, PNG and the CSV they are drawn from, the same bytes for the same rows."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_bench.report import words
from caa_bench.report.curves import Curve, curves
from caa_bench.report.headline import Headline, at_headline, headline, in_recipe_order, measured
from caa_bench.report.looks import Look, looks
from caa_bench.storage.files import write_atomic

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from caa_bench.report import Report

STYLE: dict[str, Any] = {
    "svg.hashsalt": "caa_bench",  # else every SVG has ids of its own
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that the bytes do not depend on the machine's fonts
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "legend.frameon": False,
}
SHAPES = {"circle": "o", "up": "^", "down": "v", "square": "s", "diamond": "D"}
DPI = 200


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure and the numbers in it."""

    name: str
    figure: Figure
    data: pd.DataFrame


def write_figures(report: Report, folder: Path) -> None:
    """`dose_curves`, `stacking` and `layers` (where they apply) as .svg, .png and .csv."""
    save_drawings(lambda: _drawings(report), folder)


def save_drawings(drawn: Callable[[], Iterable[Drawing]], folder: Path) -> None:
    """Each drawing as .svg, .png and .csv, drawn and saved in one style, the same bytes for the same numbers."""
    import matplotlib as mpl

    from caa_bench.report import to_csv

    with mpl.rc_context({**mpl.rcParamsDefault, "backend": "agg", **STYLE}):
        for drawing in drawn():
            write_atomic(folder / f"{drawing.name}.csv", to_csv(drawing.data))
            write_atomic(folder / f"{drawing.name}.svg", _saved(drawing.figure, "svg", {"Date": None}))
            write_atomic(folder / f"{drawing.name}.png", _saved(drawing.figure, "png", {"Software": None}))


def _saved(figure: Figure, kind: str, metadata: dict[str, None]) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=DPI, metadata=metadata)
    return buffer.getvalue()


def _drawings(report: Report) -> Iterator[Drawing]:
    chosen = headline(report)
    found = curves(report, chosen)
    look = looks(curve.base for curve in found)
    if any(len(curve.points) > 1 for curve in found):
        yield _dose_curves(found, chosen, look)
    lines = in_recipe_order(at_headline(measured(report.stacking), chosen), report.manifest["recipe"].get("bases", []))
    if len(lines):
        yield _stacking(lines, look)
    if len(chosen.layers) > 1:
        yield _layers(measured(report.shifts), chosen)


def _dose_curves(found: list[Curve], chosen: Headline, look: dict[str, Look]) -> Drawing:
    """A panel a base; the unchanged model's curve in grey in each."""
    import pandas as pd

    columns = min(3, len(found))
    height = -(-len(found) // columns)
    figure, axes = panels(height, columns, size=(2.3 * columns, 1.9 * height + 0.2))
    unchanged = next((curve for curve in found if curve.base == "none"), None)
    for place, curve in zip(axes, found, strict=False):
        if unchanged is not None and curve is not unchanged:
            place.plot(unchanged.points["multiplier"], unchanged.points["p_balanced"], color="#bbbbbb", linewidth=0.8)
        _curve(place, curve.points, look[curve.base])
        each = curve.fits
        place.scatter(each["multiplier"], each["p_balanced"], s=3, color=look[curve.base].color, alpha=0.6, zorder=3)
        place.set_title(curve.name, fontsize=8, loc="left")
        place.set_ylim(-0.02, 1.02)
        place.set_xticks(sorted(curve.points["multiplier"]))
    for place in axes[len(found) :]:
        place.set_visible(False)
    figure.supylabel("p(matching)", fontsize=8)
    layer = "" if chosen.layer is None else f", layer {words.count(chosen.layer)}"
    legend = "band: 95% interval; grey band: placebos; grey line: none"
    figure.supxlabel(f"{words.vector_name(chosen.vector)} multiplier{layer} ({legend})", fontsize=8)
    return Drawing(name="dose_curves", figure=figure, data=pd.concat([curve.points for curve in found]))


def _curve(place: Axes, points: pd.DataFrame, look: Look) -> None:
    x = points["multiplier"]
    place.fill_between(x, points["placebo_low"], points["placebo_high"], color="#999999", alpha=0.5, linewidth=0)
    place.fill_between(x, points["p_balanced_low"], points["p_balanced_high"], color=look.color, alpha=0.2, linewidth=0)
    dash = (0, [float(part) / 2 for part in look.dash.split()]) if look.dash else "-"
    style: dict[str, Any] = {"color": look.color, "linestyle": dash, "marker": SHAPES[look.marker]}
    place.plot(x, points["p_balanced"], markersize=3.5, linewidth=1.2, **style)


def _stacking(lines: pd.DataFrame, look: dict[str, Look]) -> Drawing:
    """CAA on top of each base (filled) beside CAA alone (open), a row a base and dose."""
    figure, axes = panels(1, 1, size=(5.2, 0.19 * len(lines) + 0.8))
    place = axes[0]
    rows = lines.to_dict("records")
    for y, line in enumerate(rows):
        style = look[line["base"]]
        for column, face, down in (("alone", "white", 0.14), ("on_top", style.color, -0.14)):
            _bar(place, line, column, y=y + down, color=style.color, marker=SHAPES[style.marker], face=face)
    place.axvline(0, color="#888888", linewidth=0.6)
    names = [f"{words.named(x['base'], x['base_dose'])}  {words.dose(x['multiplier'])}" for x in rows]
    place.set_yticks(range(len(rows)), names)
    place.set_ylim(len(rows) - 0.4, -0.6)
    place.set_xlabel(
        "effect in the direction of the dose, log-odds, 95% interval\nopen: alone; filled: on top of the base"
    )
    return Drawing(name="stacking", figure=figure, data=lines)


def _bar(place: Axes, line: dict[str, Any], column: str, *, y: float, color: str, marker: str, face: str) -> None:
    point, low, high = (line[f"{column}{end}"] for end in ("", "_low", "_high"))
    place.plot([low, high], [y, y], color=color, linewidth=1)
    place.plot([point], [y], marker=marker, markersize=4, markerfacecolor=face, markeredgecolor=color, linestyle="")


def _layers(shifts: pd.DataFrame, chosen: Headline) -> Drawing:
    """The vector alone at the headline's doses, layer by layer."""
    alone = shifts[(shifts["base"] == "none") & (shifts["vector"] == chosen.vector)]
    alone = alone[alone["multiplier"].isin(chosen.doses)].sort_values(["multiplier", "layer"], kind="stable")
    figure, axes = panels(1, 1, size=(4.2, 2.6))
    place = axes[0]
    for dose, part in alone.groupby("multiplier"):
        color, marker, line = ("#0072B2", "^", "-") if dose > 0 else ("#D55E00", "v", "--")
        place.fill_between(part["layer"], part["shift_low"], part["shift_high"], color=color, alpha=0.2, linewidth=0)
        name = f"{words.vector_name(chosen.vector)} {words.dose(dose)}"
        place.plot(part["layer"], part["shift"], color=color, marker=marker, linestyle=line, markersize=4, label=name)
    place.axhline(0, color="#888888", linewidth=0.6)
    place.set_xlabel("layer")
    place.set_xticks(list(chosen.layers[:: max(1, len(chosen.layers) // 16)]))
    place.set_ylabel("shift in log-odds, 95% interval")
    place.legend()
    return Drawing(name="layers", figure=figure, data=alone)


def panels(height: int, width: int, *, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """A figure of `height` x `width` axes, row by row; size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(height, width, squeeze=False).flat)
