"""The figures of a report: dose curves in one chart and base by base, stacks, layers.

A kind of arm has one color in every figure of every run; marker and dash tell its variants apart, never color alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from caa_bench.report import words
from caa_bench.report.headline import at_headline
from caa_bench.storage.drawing import INK, Drawing, panels, spread, thinned

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from caa_bench.report.model import Report

# Okabe and Ito's colors, told apart in every common kind of color blindness; the yellow is too pale for lines.
COLORS = {"none": INK, "system_prompt": "#0072B2", "lora_sft": "#D55E00", "full_sft": "#009E73"}
OTHERS = ("#CC79A7", "#56B4E9", "#E69F00", "#7F5FBF")
UP, DOWN, GREY = "#0072B2", "#D55E00", "#8d9399"
LOOKS = {"positive": ("^", "-"), "negative": ("v", (0, (3.5, 1.5))), "neutral": ("s", (0, (1, 1.5)))}
CURVE = [
    "base", "base_dose", "vector", "layer", "multiplier", "cell", "n", "p_balanced", "p_balanced_low",
    "p_balanced_high", "placebo_low", "placebo_high",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One base with the headline's vector.

    Args:
        name: the base, with its own dose where that is not as fitted.
        look: how its line is drawn: color, marker, linestyle, and alpha (weaker for a smaller dose of the base).
        points: `CURVE`, by ascending multiplier, the base's own unsteered cell among them.
        fits: `multiplier`, `p_balanced`, `cell`, `fit` and `n` of each fit, where there are several.
    """

    name: str
    look: dict[str, Any]
    points: pd.DataFrame
    fits: pd.DataFrame


def look_of(base: str, base_dose: float = 1.0) -> dict[str, Any]:
    """Color by kind of arm, marker and dash by variant, and paler the smaller its own dose."""
    family = words.family(base)
    color = COLORS.get(family) or OTHERS[zlib.crc32(family.encode()) % len(OTHERS)]
    marker, line = LOOKS.get(base.removeprefix(f"{family}_"), ("o" if base == "none" else "D", "-"))
    alpha = 1.0 if base_dose >= 1 else 0.35 + 0.6 * max(base_dose, 0.0)
    return {"color": color, "marker": marker, "linestyle": line, "alpha": alpha}


def curves(report: Report) -> list[Curve]:
    """One curve a base at the headline's vector and layer, in the recipe's order."""
    chosen, cells = report.headline, report.measured("cells")
    each, band = report.leading(report.measured("fits")) if len(report.fits) else report.fits, report.band
    at = band if chosen.layer is None else band[band["layer"] == chosen.layer]
    at = at.rename(columns={"p_low": "placebo_low", "p_high": "placebo_high"})
    place = ["base", "base_dose", "multiplier"]
    found = []
    for base, base_dose in chosen.bases:
        own = cells[(cells["base"] == base) & (cells["base_dose"] == base_dose)]
        ids = [*own[own["multiplier"] == 0]["cell"], *at_headline(own, chosen)["cell"]]
        points = own[own["cell"].isin(ids)].sort_values("multiplier", kind="stable")
        points = points.merge(at[[*place, "placebo_low", "placebo_high"]], on=place, how="left")
        still = points["multiplier"] == 0  # a placebo of dose 0 is the base itself
        if points["placebo_low"].notna().any():
            for end in ("placebo_low", "placebo_high"):
                points[end] = points[end].where(~still, points["p_balanced"])
        dots = each[(each["base"] == base) & (each["base_dose"] == base_dose)] if len(each) else each
        if len(points):
            name, look = words.named(base, base_dose), look_of(base, base_dose)
            found.append(Curve(name=name, look=look, points=points[CURVE], fits=dots))
    return found


def dose_curves(report: Report) -> Iterator[Drawing]:
    """Every base in one chart, named at the right; where there are several, a panel a base too."""
    found = [curve for curve in curves(report) if len(curve.points) > 1]
    if not found:
        return
    data = pd.concat([curve.points for curve in found])
    banded = bool(data["placebo_low"].notna().any())
    axis = f"{words.display(report.headline.vector)} multiplier{_layer(report)}"
    figure, (place,) = panels(1, 1, size=(4.3, max(2.75, 0.16 * len(found))))
    titles: dict[str, str] = {}
    for curve in found:
        titles |= _line(place, curve, report, banded=curve.name == "none", faint=len(found) > 1)
    _name_ends(place, found)
    _p_axes(place, data, wide=True, axis=axis)
    shown = "; grey: the placebos' range on the unchanged model" if banded else ""
    caption = f"p(matching) against {axis}, a line a base{shown}"
    yield Drawing(name="dose_curves", figure=figure, data=data, caption=caption, titles=titles, first=True)
    if len(found) > 1:
        yield _panels(report, found, data, axis=axis, banded=banded)


def stacking(report: Report) -> Iterator[Drawing]:
    """The vector on top of each base (filled) beside the vector alone (open), a row a base and dose."""
    data = report.at_headline("stacking")
    if data.empty:
        return
    figure, (place,) = panels(1, 1, size=(5.2, 0.19 * len(data) + 0.8))
    rows, titles = data.to_dict("records"), {}
    for y, line in enumerate(rows):
        look = look_of(line["base"], line["base_dose"])
        for column, face, down in (("alone", "none", 0.14), ("on_top", look["color"], -0.14)):
            ends, gid = [line[f"{column}_low"], line[f"{column}_high"]], f"{column}-{y}"
            place.plot(ends, [y + down] * 2, color=look["color"], linewidth=1)
            mark = {"marker": look["marker"], "markersize": 4, "linestyle": "", "gid": gid}
            place.plot([line[column]], [y + down], markerfacecolor=face, markeredgecolor=look["color"], **mark)
            titles[gid] = f"{_row(line)}, {column.replace('_', ' ')}: {words.interval(line, column)}, n {line['n']}"
    place.axvline(0, color=GREY, linewidth=0.6)
    place.set_yticks(range(len(rows)), list(map(_row, rows)))
    place.set_ylim(len(rows) - 0.4, -0.6)
    place.set_xlabel("effect in the direction of the dose, log-odds")
    name = words.display(report.headline.vector)
    caption = f"{name} alone (open) and on top of each base (filled), 95% intervals"
    yield Drawing(name="stacking", figure=figure, data=data, caption=caption, titles=titles)


def layers(report: Report) -> Iterator[Drawing]:
    """The vector alone at the headline's doses, layer by layer."""
    chosen, shifts = report.headline, report.measured("shifts")
    alone = shifts[(shifts["base"] == "none") & (shifts["vector"] == chosen.vector)]
    alone = alone[alone["multiplier"].isin(chosen.doses)].sort_values(["multiplier", "layer"], kind="stable")
    if len(chosen.layers) < 2 or alone["shift"].isna().all():
        return
    name, titles = words.display(chosen.vector), {}
    figure, (place,) = panels(1, 1, size=(5.0, 2.3))
    for dose, part in alone.groupby("multiplier"):
        color, marker, line = (UP, "^", "-") if dose > 0 else (DOWN, "v", "--")
        place.fill_between(part["layer"], part["shift_low"], part["shift_high"], color=color, alpha=0.2, linewidth=0)
        named: dict[str, Any] = {"label": f"{name} {words.dose(dose)}", "color": color}
        place.plot(part["layer"], part["shift"], linestyle=line, marker=marker, markersize=0, **named)
        for shift in part.to_dict("records"):
            gid = f"layer-{shift['cell']}"
            place.plot([shift["layer"]], [shift["shift"]], color=color, marker=marker, markersize=4, gid=gid)
            said = words.interval(shift, "shift", words.signed)
            titles[gid] = f"layer {shift['layer']:.0f} at {words.dose(dose)}: {said}, n {shift['n']}"
    place.axhline(0, color=GREY, linewidth=0.6)
    place.set_xlabel("layer")
    place.set_xticks(thinned(chosen.layers, most=13))
    place.set_ylabel("shift, log-odds")
    place.legend()
    caption = f"{name} alone on the unchanged model, by layer; band: 95% interval"
    yield Drawing(name="layers", figure=figure, data=alone, caption=caption, titles=titles)


def _panels(report: Report, found: Sequence[Curve], data: pd.DataFrame, *, axis: str, banded: bool) -> Drawing:
    """A panel a base, with its interval; the unchanged model's curve in grey in each."""
    columns = min(3, len(found))
    height = -(-len(found) // columns)
    figure, axes = panels(height, columns, size=(2.3 * columns, 1.6 * height + 0.2))
    unchanged = next((curve for curve in found if curve.name == "none"), None)
    titles: dict[str, str] = {}
    for number, (place, curve) in enumerate(zip(axes, found, strict=False)):
        if unchanged is not None and curve is not unchanged:
            place.plot(unchanged.points["multiplier"], unchanged.points["p_balanced"], color=GREY, linewidth=0.8)
        titles |= _line(place, curve, report, banded=True, prefix=f"panel{number}-")
        titles |= _fit_dots(place, curve)
        place.set_title(curve.name, fontsize=8, loc="left")
        _p_axes(place, curve.points, wide=False)
    for place in axes[len(found) :]:
        place.set_visible(False)
    figure.supylabel("p(matching)", fontsize=8)
    figure.supxlabel(axis, fontsize=8)
    parts = ["band: 95% interval over items", "grey line: the unchanged model"]
    parts += ["grey band: the placebos' range"] if banded else []
    parts += ["small dots: each fit by itself"] if any(len(curve.fits) for curve in found) else []
    return Drawing(name="dose_panels", figure=figure, data=data, caption="; ".join(parts), titles=titles)


def _line(
    place: Axes, curve: Curve, report: Report, *, banded: bool, faint: bool = False, prefix: str = ""
) -> dict[str, str]:
    """One curve: placebo band, interval band, line and marks. Returns what its marks say."""
    points, look = curve.points, curve.look
    x = points["multiplier"]
    if banded and points["placebo_low"].notna().any():
        place.fill_between(x, points["placebo_low"], points["placebo_high"], color=GREY, alpha=0.45, linewidth=0.8)
    if not faint and points["p_balanced_low"].notna().any():
        ends = points["p_balanced_low"], points["p_balanced_high"]
        place.fill_between(x, *ends, color=look["color"], alpha=0.2, linewidth=0)
    place.plot(x, points["p_balanced"], linewidth=1.2, **{name: look[name] for name in ("color", "linestyle", "alpha")})
    titles = {}
    for point in points[points["p_balanced"].notna()].to_dict("records"):
        gid = f"{prefix}mark-{point['cell']}"
        mark = {name: look[name] for name in ("color", "marker", "alpha")}
        place.plot([point["multiplier"]], [point["p_balanced"]], markersize=4, linestyle="", gid=gid, **mark)
        over = words.on_top(report.headline.vector, point["multiplier"])
        name = f"{curve.name} {over}" if over == "alone" else f"{curve.name} + {over}"
        titles[gid] = f"{name}: p {words.interval(point, 'p_balanced', words.probability)}, n {point['n']}"
    return titles


def _fit_dots(place: Axes, curve: Curve) -> dict[str, str]:
    titles = {}
    for line in curve.fits.to_dict("records"):
        gid = f"fit-{line['cell']}"
        dot = {"marker": ".", "markersize": 3, "color": curve.look["color"], "alpha": 0.6, "linestyle": ""}
        place.plot([line["multiplier"]], [line["p_balanced"]], gid=gid, **dot)
        titles[gid] = f"{curve.name}, fit {line['fit']}: p {words.probability(line['p_balanced'])}, n {line['n']}"
    return titles


def _name_ends(place: Axes, found: Sequence[Curve]) -> None:
    """Each curve's name beside its last point, moved apart where two would overlap."""
    ends = [float(curve.points["p_balanced"].dropna().iloc[-1:].sum()) for curve in found]
    gap = min(0.058, 1.0 / max(len(found), 1))
    for curve, end, height in zip(found, ends, spread(ends, low=0.0, high=1.0, gap=gap), strict=True):
        last = (curve.points["multiplier"].iloc[-1], end)
        line = {"arrowstyle": "-", "color": curve.look["color"], "linewidth": 0.5, "shrinkA": 1, "shrinkB": 3}
        own = {"color": curve.look["color"], "va": "center", "fontsize": 8, "annotation_clip": False}
        place.annotate(curve.name, last, (1.05, height), textcoords=("axes fraction", "data"), arrowprops=line, **own)


def _p_axes(place: Axes, points: pd.DataFrame, *, wide: bool, axis: str = "") -> None:
    place.set_ylim(-0.02, 1.02)
    place.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"])
    values = thinned(sorted(set(points["multiplier"])), most=9 if wide else 6)
    place.set_xticks(values, list(map(words.multiplier, values)))
    if wide:
        place.set_xlabel(axis)
        place.set_ylabel("p(matching)")


def _row(line: dict[str, Any]) -> str:
    return f"{words.named(line['base'], line['base_dose'])}  {words.dose(line['multiplier'])}"


def _layer(report: Report) -> str:
    layer = report.headline.layer
    return "" if layer is None else f" at layer {words.count(layer)}"
