"""The figures of a report: what stacks, dose curves, layers, effect against cost.

A kind of arm has one color in every figure of every run; marker and dash tell its variants apart, never color alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from caa_bench.report import words
from caa_bench.report.arms import stacked
from caa_bench.report.headline import at_headline
from caa_bench.storage.drawing import INK, Drawing, panels, spread, thinned

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Transform

    from caa_bench.report.model import Report

# Okabe and Ito's colors, told apart in every common kind of color blindness; the yellow is too pale for lines.
COLORS = {"none": INK, "system_prompt": "#0072B2", "lora_sft": "#D55E00", "full_sft": "#009E73"}
OTHERS = ("#CC79A7", "#56B4E9", "#E69F00", "#7F5FBF")
UP, DOWN, GREY = "#0072B2", "#D55E00", "#8d9399"
KINDS = {"adds": "#238636", "adds less": "#b08800", "backfires": "#cf222e"}
LOOKS = {"positive": ("^", "-"), "negative": ("v", (0, (3.5, 1.5))), "neutral": ("s", (0, (1, 1.5)))}
ENDS = ("", "_low", "_high")
CURVE = [
    "base", "base_dose", "vector", "layer", "multiplier", "cell", "n", "p_balanced", "p_balanced_low",
    "p_balanced_high", "log_odds", "log_odds_low", "log_odds_high", "placebo_low", "placebo_high",
]  # fmt: skip
VERDICT, CAPABILITY = 7.0, 106.0
"""Points between the chart of what stacks and the columns at its right."""
LOSS = 0.05
"""The smallest loss of p(correct) that is reported, and drawn in red where its interval leaves out 0."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What a chart shows of an answer: its name on the switch, its column, its axis, and how a value is written."""

    name: str
    column: str
    axis: str
    form: words.Form


SCALES = (
    Scale(name="p", column="p_balanced", axis="p(matching)", form=words.probability),
    Scale(name="log-odds", column="log_odds", axis="log-odds of matching", form=words.number),
)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One base with the headline's vector.

    Args:
        name: the base as a reader calls it, with its own dose where that is not as fitted.
        look: how its line is drawn: color, marker, linestyle, and alpha (weaker for a smaller dose of the base).
        points: `CURVE`, by ascending multiplier, the base's own unsteered cell among them.
        fits: `multiplier`, `p_balanced`, `log_odds`, `cell`, `fit` and `n` of each fit, where there are several.
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
    at = at.astype({"base_dose": float, "multiplier": float})  # an empty table has columns of no type
    place = ["base", "base_dose", "multiplier"]
    found = []
    for base, base_dose in chosen.bases:
        own = cells[(cells["base"] == base) & (cells["base_dose"] == base_dose)]
        ids = [*own[own["multiplier"] == 0]["cell"], *at_headline(own, chosen)["cell"]]
        points = own[own["cell"].isin(ids)].sort_values("multiplier", kind="stable")
        if points.empty:
            continue
        points = points.merge(at[[*place, "placebo_low", "placebo_high"]], on=place, how="left")
        still = points["multiplier"] == 0  # a placebo of dose 0 is the base itself
        if points["placebo_low"].notna().any():
            for end in ("placebo_low", "placebo_high"):
                points[end] = points[end].where(~still, points["p_balanced"])
        dots = each[(each["base"] == base) & (each["base_dose"] == base_dose)] if len(each) else each
        if len(points):
            name, look = words.human(words.named(base, base_dose)), look_of(base, base_dose)
            found.append(Curve(name=name, look=look, points=points[CURVE], fits=dots))
    return found


def dose_curves(report: Report) -> Iterator[Drawing]:
    """Every base in one chart, named at the right, once on each scale; intervals and single fits as bands."""
    found = [curve for curve in curves(report) if len(curve.points) > 1]
    if not found:
        return
    data = pd.concat([curve.points for curve in found])
    banded = bool(data["placebo_low"].notna().any())
    axis = f"{words.display(report.headline.vector)} multiplier{_layer(report)}"
    for scale in SCALES:
        grey = banded and scale is SCALES[0]
        figure, (place,) = panels(1, 1, size=(4.3, max(2.75, 0.16 * len(found))))
        titles: dict[str, str] = {}
        series: dict[str, str] = {}
        for number, curve in enumerate(found):
            if grey and curve.name == words.human("none"):
                ends = curve.points["placebo_low"], curve.points["placebo_high"]
                place.fill_between(curve.points["multiplier"], *ends, color=GREY, alpha=0.45, linewidth=0.8)
            own = _line(place, curve, report, scale=scale, number=number)
            titles, series = (
                titles | own,
                series | dict.fromkeys([*own, f"line-{number}", f"band-{number}"], curve.name),
            )
        series |= _name_ends(place, found, scale)
        values = thinned(sorted(set(data["multiplier"])), most=9)
        place.set_xticks(values, [words.multiplier(value).replace("-", "\N{MINUS SIGN}") for value in values])
        place.set_xlabel(axis)
        _scaled(place, scale, "y")
        shown = "; grey: the placebos' range on the unchanged model" if grey else ""
        caption = f"{scale.axis} against {axis}, a line a base{shown}"
        name = "dose_curves" if scale is SCALES[0] else "dose_curves_log_odds"
        yield Drawing(name=name, figure=figure, data=data, caption=caption, titles=titles, series=series, place="side",
                      shows=scale.name, cross=True)  # fmt: skip


def stacking(report: Report) -> Iterator[Drawing]:
    """A row a base: a dot for the base alone, an arrow to the vector on top, a ring where full addition would land."""
    data = stacked(report)
    if data.empty or (len(report.headline.layers) > 1 and set(data["base"]) == {"none"}):
        return
    bases = list(dict.fromkeys(zip(data["base"], data["base_dose"], strict=True)))
    costly = bool(data["capability"].notna().any())
    vector = words.display(report.headline.vector)
    for scale in SCALES:
        figure, (place,) = panels(1, 1, size=(8.4, 0.47 * len(bases) + 0.62))
        titles: dict[str, str] = {}
        series: dict[str, str] = {}
        for y, (base, base_dose) in enumerate(bases):
            rows = data[(data["base"] == base) & (data["base_dose"] == base_dose)].to_dict("records")
            own = _stack_row(place, rows, y, scale, vector=vector)
            titles, series = titles | own, series | dict.fromkeys(own, words.human(words.named(base, base_dose)))
        place.set_ylim(len(bases) - 0.45, -0.75)
        place.set_yticks(range(len(bases)), [words.human(words.named(*base)) for base in bases])
        for label, base in zip(place.get_yticklabels(), bases, strict=True):
            label.set_color(look_of(*base)["color"])
        for points, head in ((VERDICT, "verdict"), *(((CAPABILITY, "capability"),) if costly else ())):
            place.text(1, -0.65, head, transform=_right_of(place, points), fontsize=7, color=GREY)
        _scaled(place, scale, "x")
        caption = f"{scale.axis}: dot, the base alone; arrow, {vector} on top of it (bar: 95% interval)"
        caption += "; ring: where it would land if all of its effect alone were kept" * bool(
            data["log_odds_full"].any()
        )
        name = "stacking" if scale is SCALES[0] else "stacking_log_odds"
        yield Drawing(name=name, figure=figure, data=data, caption=caption, titles=titles, series=series, place="hero",
                      shows=scale.name)  # fmt: skip


def layers(report: Report) -> Iterator[Drawing]:
    """The vector alone at the headline's doses, layer by layer."""
    chosen, shifts = report.headline, report.measured("shifts")
    alone = shifts[(shifts["base"] == "none") & (shifts["vector"] == chosen.vector)]
    alone = alone[alone["multiplier"].isin(chosen.doses)].sort_values(["multiplier", "layer"], kind="stable")
    if len(chosen.layers) < 2 or alone["shift"].isna().all():
        return
    name, titles = words.display(chosen.vector), {}
    beside = "hero" if set(report.arms["kind"]) <= {"none", "vector"} else ""
    figure, (place,) = panels(1, 1, size=(8.4, 3.0) if beside else (5.0, 2.3))
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
    yield Drawing(name="layers", figure=figure, data=alone, caption=caption, titles=titles, place=beside, cross=True)


def _line(place: Axes, curve: Curve, report: Report, *, scale: Scale, number: int) -> dict[str, str]:
    """One curve: interval band and single fits, line and marks. Returns what its marks say."""
    points, look, column = curve.points, curve.look, scale.column
    x, ends = points["multiplier"], [points[f"{column}{end}"] for end in ENDS[1:]]
    if ends[0].notna().any():
        place.fill_between(x, *ends, color=look["color"], alpha=0.15, linewidth=0, gid=f"band-{number}")
    for fit in curve.fits.to_dict("records"):
        place.plot([fit["multiplier"]], [fit[column]], marker=".", markersize=3, color=look["color"], alpha=0.6)
    line = {name: look[name] for name in ("color", "linestyle", "alpha")}
    place.plot(x, points[column], linewidth=1.2, gid=f"line-{number}", **line)
    titles = {}
    for point in points[points[column].notna()].to_dict("records"):
        gid = f"mark-{point['cell']}"
        mark = {name: look[name] for name in ("color", "marker", "alpha")}
        place.plot([point["multiplier"]], [point[column]], markersize=4, linestyle="", gid=gid, **mark)
        over = words.on_top(report.headline.vector, point["multiplier"])
        name = f"{curve.name} {over}" if over == "alone" else f"{curve.name} + {over}"
        titles[gid] = f"{name}: {scale.name} {words.interval(point, column, scale.form)}, n {point['n']}"
    return titles


def _stack_row(place: Axes, rows: Sequence[dict[str, Any]], y: int, scale: Scale, *, vector: str) -> dict[str, str]:
    """One base of the chart of stacks, its larger dose above. Returns what its marks say."""
    look, column = look_of(rows[0]["base"], rows[0]["base_dose"]), scale.column
    titles: dict[str, str] = {}
    color, aside = look["color"], _right_of(place, VERDICT)
    base = words.human(words.named(rows[0]["base"], rows[0]["base_dose"]))
    for line in rows:
        at = y - 0.27 if line["multiplier"] > 0 else y + 0.27
        before, after, full = (line[f"{column}_{word}"] for word in ("before", "after", "full"))
        place.plot([line[f"{column}_after{end}"] for end in ENDS[1:]], [at, at], color=color, alpha=0.3, linewidth=4)
        place.plot([before, after], [y, at], color=color, linewidth=1.2)
        gid = f"after-{line['cell']}"
        place.plot(
            [after], [at], marker=">" if after >= before else "<", markersize=5, color=color, linestyle="", gid=gid
        )
        shown = words.interval(line, f"{column}_after", scale.form)
        dose = words.dose(line["multiplier"])
        titles[gid] = f"{base} + {vector} {dose}: {scale.name} {shown}, from {scale.form(before)}, n {line['n']}"
        if full == full:
            ring: dict[str, Any] = {"marker": "o", "markersize": 6, "linestyle": "", "gid": f"full-{line['cell']}"}
            place.plot([full], [at], markerfacecolor="none", markeredgecolor=GREY, **ring)
            titles[f"full-{line['cell']}"] = f"{base}: {vector} {dose} in full would land at {scale.form(full)}"
        kind = (
            GREY if "no room" in line["verdict_words"] else KINDS.get(words.verdict_kind(line["verdict_words"]), GREY)
        )
        said = words.short_placebos(line["verdict_words"].split(";")[0])
        told = f"{dose} {said.removeprefix(f'{vector} ')}".strip().replace("-", "\N{MINUS SIGN}", dose.startswith("-"))
        place.text(1, at, told, transform=aside, va="center", fontsize=7, color=kind, gid=f"verdict-{line['cell']}")
        titles[f"verdict-{line['cell']}"] = f"{base} + {vector} {dose}: {line['verdict_words']}"
        titles |= _cost(place, line, "capability", at, of=f"{base} + {vector} {dose}")
    mark: dict[str, Any] = {"marker": look["marker"], "markersize": 6, "gid": f"base-{rows[0]['base_cell']}"}
    place.plot([rows[0][f"{column}_before"]], [y], color=color, linestyle="", **mark)
    titles |= _cost(place, rows[0], "base_capability", y, of=f"{base} alone")
    level = words.interval(rows[0], f"{column}_before", scale.form)
    return titles | {f"base-{rows[0]['base_cell']}": f"{base} alone: {scale.name} {level}"}


def _cost(place: Axes, line: dict[str, Any], name: str, y: float, *, of: str) -> dict[str, str]:
    """The change of p(correct) beside a row; red where a loss is told apart from none. Returns what it says."""
    if line[name] != line[name]:
        return {}
    red = line[name] <= -LOSS and line[f"{name}_high"] < 0
    look: dict[str, Any] = {"color": KINDS["backfires"] if red else GREY, "weight": "bold" if red else "normal"}
    said, gid = words.signed(line[name]).replace("-", "\N{MINUS SIGN}"), f"cost-{line[f'{name}_cell']}"
    place.text(1, y, said, transform=_right_of(place, CAPABILITY), va="center", fontsize=7, gid=gid, **look)
    return {gid: f"{of}: change of p(correct) {words.interval(line, name, words.signed)}"}


def _right_of(place: Axes, points: float) -> Transform:
    """Across, so many points from the right edge; down, the data's own. A share of the axes' width would change that
    width as the layout makes room for it, and the last column would be cut off."""
    from matplotlib.transforms import ScaledTranslation

    return place.get_yaxis_transform() + ScaledTranslation(points / 72, 0, place.figure.dpi_scale_trans)


def _name_ends(place: Axes, found: Sequence[Curve], scale: Scale) -> dict[str, str]:
    """Each curve's name beside its last point, moved apart where two would overlap; what each name belongs to."""
    ends = [float(curve.points[scale.column].dropna().iloc[-1:].sum()) for curve in found]
    low, high = (0.0, 1.0) if scale is SCALES[0] else place.get_ylim()
    gap = (high - low) * min(0.058, 1.0 / max(len(found), 1))
    named = {}
    for number, (curve, end, height) in enumerate(
        zip(found, ends, spread(ends, low=low, high=high, gap=gap), strict=True)
    ):
        last = (curve.points["multiplier"].iloc[-1], end)
        line = {"arrowstyle": "-", "color": curve.look["color"], "linewidth": 0.5, "shrinkA": 1, "shrinkB": 3}
        line["relpos"] = (0, 0.5)  # from the name's left end, not from its middle through the name
        own = {"color": curve.look["color"], "va": "center", "fontsize": 8, "annotation_clip": False}
        place.annotate(curve.name, last, (1.05, height), textcoords=("axes fraction", "data"), arrowprops=line,
                       gid=f"name-{number}", **own)  # fmt: skip
        named[f"name-{number}"] = curve.name
    return named


def _scaled(place: Axes, scale: Scale, axis: str) -> None:
    """One axis: a probability whole, from 0 to 1; log-odds as far as they go."""
    if scale is SCALES[0]:
        getattr(place, f"set_{axis}lim")(-0.02, 1.02)
        getattr(place, f"set_{axis}ticks")([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"])
    getattr(place, f"set_{axis}label")(scale.axis)


def _layer(report: Report) -> str:
    layer = report.headline.layer
    return "" if layer is None else f" at layer {words.count(layer)}"
