"""The page's charts: every base in one, a panel a base, and the layer curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from caa_bench.analysis.fairness import placebo_band
from caa_bench.report import words
from caa_bench.report.charts import Chart, Dot, Frame, Series, draw, ticks
from caa_bench.report.curves import Curve
from caa_bench.report.headline import Headline, measured, placebos
from caa_bench.report.looks import Look, looks

if TYPE_CHECKING:
    from caa_bench.report import Report

P_TICKS = ((0.0, "0"), (0.25, ".25"), (0.5, ".5"), (0.75, ".75"), (1.0, "1"))


def overlay(found: Sequence[Curve], chosen: Headline) -> Chart | None:
    """All bases in one chart, named at the right; the placebos' range around the unchanged model."""
    if not any(len(curve.points) > 1 for curve in found):
        return None
    look = looks(curve.base for curve in found)
    series = [Series(name=c.name, look=look[c.base], dots=_dots(c, chosen, band=c.base == "none")) for c in found]
    longest = max(len(curve.name) for curve in found)
    frame = _p_frame(found, width=452, height=300, labels=min(20 + 6.3 * longest, 190))
    return draw(series, frame, title="p(matching) against multiplier, every base", **_axes(chosen))


def panels(found: Sequence[Curve], chosen: Headline) -> list[Chart]:
    """A panel a base: its interval, its placebos' range, and the unchanged model's curve in grey."""
    curves = [curve for curve in found if len(curve.points) > 1]
    look = looks(curve.base for curve in found)
    unchanged = next((curve for curve in curves if curve.base == "none"), None)
    charts = []
    for curve in curves:
        own = _dots(curve, chosen, band=True)
        series = [Series(name=curve.name, look=look[curve.base], dots=own, fits=_fits(curve))]
        if unchanged is not None and curve is not unchanged:
            faint = Series(name="none", look=look["none"], dots=_dots(unchanged, chosen, band=False), faint=True)
            series.insert(0, faint)
        frame = _p_frame([curve], width=300, height=190, labels=10)
        charts.append(draw(series, frame, title=curve.name, **_axes(chosen)))
    return charts


def layer_chart(report: Report, chosen: Headline) -> Chart | None:
    """The vector alone over the layers, a line a headline dose."""
    if len(chosen.layers) < 2:
        return None
    shifts = measured(report.shifts)
    alone = shifts[(shifts["base"] == "none") & (shifts["vector"] == chosen.vector)]
    band = placebo_band(shifts, placebos=placebos())
    band = band[(band["base"] == "none") & (band["original"] == chosen.vector)]
    reach = {(x["layer"], x["multiplier"]): (x["low"], x["high"]) for x in band.to_dict("records")}
    colors = {
        True: Look(color="#0072B2", marker="up", dash=""),
        False: Look(color="#D55E00", marker="down", dash="7 3"),
    }
    name = words.vector_name(chosen.vector)
    series = []
    for dose in chosen.doses:
        part = alone[alone["multiplier"] == dose].sort_values("layer").to_dict("records")
        dots = tuple(_layer_dot(x, band=reach.get((x["layer"], dose), (math.nan, math.nan))) for x in part)
        series.append(Series(name=f"{name} {words.dose(dose)}", look=colors[dose > 0], dots=dots))
    seen = [v for one in series for d in one.dots for v in (d.y, d.low, d.high) if not math.isnan(v)]
    if not seen:
        return None
    heights = ticks(min(0.0, *seen), max(0.0, *seen))
    frame = Frame(
        width=640,
        height=260,
        labels=70,
        left=36,
        x_range=(chosen.layers[0] - 0.2, chosen.layers[-1] + 0.2),
        y_range=(heights[0], heights[-1]),
        x_ticks=tuple((float(x), words.count(x)) for x in _thinned(chosen.layers)),
        y_ticks=tuple((y, f"{y:+g}" if y else "0") for y in heights),
    )
    return draw(series, frame, title="Shift of the vector alone, by layer", x_title="layer", y_title="shift, log-odds")


def _axes(chosen: Headline) -> dict[str, str]:
    layer = "" if chosen.layer is None else f", layer {words.count(chosen.layer)}"
    return {"x_title": f"{words.vector_name(chosen.vector)} multiplier{layer}", "y_title": "p(matching)"}


def _dots(curve: Curve, chosen: Headline, *, band: bool) -> tuple[Dot, ...]:
    name = words.vector_name(chosen.vector)
    dots = []
    for point in curve.points.to_dict("records"):
        level, low, high = (words.probability(point[f"p_balanced{end}"]) for end in ("", "_low", "_high"))
        over = f" + {name} {words.dose(point['multiplier'])}" if point["multiplier"] else " alone"
        dots.append(
            Dot(
                x=point["multiplier"],
                y=point["p_balanced"],
                low=point["p_balanced_low"],
                high=point["p_balanced_high"],
                cell=str(point["cell"]),
                column="p_balanced",
                title=f"{curve.name}{over}: p {level} [{low}, {high}], n {point['n']}",
                band=(point["placebo_low"], point["placebo_high"]) if band else (math.nan, math.nan),
            )
        )
    return tuple(dots)


def _fits(curve: Curve) -> tuple[Dot, ...]:
    """Each fit's own level."""
    return tuple(
        Dot(
            x=line["multiplier"],
            y=line["p_balanced"],
            low=math.nan,
            high=math.nan,
            cell=str(line["cell"]),
            column="p_balanced",
            title=f"{curve.name}, fit {line['fit']}: p {words.probability(line['p_balanced'])}, n {line['n']}",
        )
        for line in curve.fits.to_dict("records")
    )


def _layer_dot(shift: dict[str, Any], *, band: tuple[float, float]) -> Dot:
    point, low, high = (words.signed(shift[f"shift{end}"]) for end in ("", "_low", "_high"))
    place = f"layer {shift['layer']:.0f} at {words.dose(shift['multiplier'])}"
    return Dot(
        x=shift["layer"],
        y=shift["shift"],
        low=shift["shift_low"],
        high=shift["shift_high"],
        cell=str(shift["cell"]),
        column="shift",
        band=band,
        title=f"{place}: {point} [{low}, {high}], n {shift['n']}",
    )


def _p_frame(found: Sequence[Curve], *, width: float, height: float, labels: float) -> Frame:
    multipliers = sorted({float(m) for curve in found for m in curve.points["multiplier"]})
    return Frame(
        width=width,
        height=height,
        labels=labels,
        x_range=(multipliers[0] - 0.06, multipliers[-1] + 0.06),
        y_range=(-0.02, 1.02),
        x_ticks=tuple((m, words.multiplier(m)) for m in multipliers),
        y_ticks=P_TICKS,
    )


def _thinned(layers: Sequence[float]) -> Sequence[float]:
    return layers[:: max(1, len(layers) // 16)]
