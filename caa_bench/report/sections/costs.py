"""Sections about what an arm costs: its fit, the capability lost, every other measure that it changes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from caa_bench.report import words
from caa_bench.report.arms import costs
from caa_bench.report.figures import GREY, LOSS, look_of
from caa_bench.report.headline import CAPABILITY, by_condition, condition_of
from caa_bench.report.sections import BASE, Column, Line, Section, Table, levels
from caa_bench.runs.tuning_record import KNOWS
from caa_bench.storage.drawing import Drawing, panels

if TYPE_CHECKING:
    from caa_bench.report.model import Report

P, SIGNED = words.probability, words.signed
NAMED = 3
PLAIN_FACTS = "plain facts"
FELT = 0.01
"""The smallest loss of p(correct) that the answer calls measurable, where its interval leaves out 0."""
PLACE = ["cell", "evaluator", "base", "base_dose", "vector", "layer", "multiplier"]
ENDS = ("", "_low", "_high")


class Costs(Section):
    """What each arm alone moves, and what its fit and its side effect on capability cost."""

    name = "costs"
    title = "Effect against cost"
    order = 80
    needs = ("arms",)
    note = "What each arm alone does, and what its fit cost when it was done. A system prompt costs its tokens, no fit."

    def tables(self, report: Report) -> Sequence[Table]:
        """A line an arm."""
        by_label = {cost.label: cost for cost in costs(report)}
        alone = report.arms[report.arms["kind"].isin(["base", "vector"])]
        owners = alone["base"].where(alone["kind"] == "base", alone["vector"])
        known = [by_label.get(label) for label in owners]
        bytes_ = [math.nan if x is None or x.stored_bytes is None else float(x.stored_bytes) for x in known]
        seconds = [math.nan if x is None or x.fit_s is None else x.fit_s for x in known]
        fitted = [x is not None for x in known]
        frame = alone.assign(stored_bytes=bytes_, fit_s=seconds, fitted=fitted)
        kept = [
            "arm",
            "cell",
            "p_before",
            *_span("p_balanced"),
            *_span("shift"),
            *_span("capability"),
            "fitted",
            "stored_bytes",
        ]
        columns = (
            Column(name="arm"),
            Column(name="p_balanced", label="p(matching)", form=P, text=levels, definition="before -> after"),
            Column(name="shift", form=SIGNED, interval=True, definition="log-odds, + towards matching"),
            Column(name="fit_s", label="fit", text=_fit, timing=True),
            Column(
                name="stored_bytes",
                label="stored",
                form=lambda x: words.or_na(x, words.size),
                blank=lambda x: not x["fitted"],
            ),
            Column(name="capability", form=SIGNED, interval=True, definition="change of p(correct)", behind=CAPABILITY),
        )
        return [Table(frame=frame[[*kept, "fit_s"]], columns=columns, file=self.name, where="page")]

    def summary(self, report: Report) -> str:
        """What it costs."""
        return cost_in_words(report)

    def figures(self, report: Report) -> Sequence[Drawing]:
        """Every dose's effect against its costs."""
        return list(effect_against_cost(report))


class SideEffects(Section):
    """The change of every other measure from the unchanged model, with its interval and its items."""

    name = "side_effects"
    title = "Side effects"
    order = 100
    note = (
        "What each arm and stack changes against the unchanged model, over the same items, with 95% intervals: of a "
        "perplexity as a ratio (above 1 is worse), of all else as a difference."
    )

    def tables(self, report: Report) -> Sequence[Table]:
        """A line an arm and measure, at the layer and doses that lead."""
        parts = [part for part in _changes(report) if len(part)]
        if not parts:
            return []
        frame = pd.concat(parts, ignore_index=True)
        steered = frame["multiplier"] != 0
        frame = frame[
            (steered & frame["multiplier"].isin(report.headline.doses)) | (~steered & (frame["base"] != "none"))
        ]
        name = words.display(report.headline.vector)
        columns = (
            BASE,
            Column(name="multiplier", label=f"{name or 'vector'} on it", text=_dose),
            Column(name="measure"),
            Column(name="change", form=words.number, text=_side_change, definition="against the unchanged model"),
            Column(name="n", form=words.count, definition="items that both have"),
        )
        return [Table(frame=frame, columns=columns, file=self.name, key=("cell", "measure"), across="measure")]

    def finding(self, report: Report) -> str:
        """How many changes are told apart from none."""
        tables = self.tables_of(report)
        if not tables:
            return ""
        table = tables[0]
        none = (table.frame["unit"] == "ratio").astype(float)
        apart = (table.frame["change_low"] > none) | (table.frame["change_high"] < none)
        return f"{int(apart.sum())} of {len(apart)} changes have an interval that leaves out no change."


def effect_against_cost(report: Report) -> Iterator[Drawing]:
    """Every dose of every arm: its effect against what it costs; the doses on a base are connected."""
    shifts = report.leading(report.measured("shifts"))
    keys = [condition_of(line) for line in shifts.to_dict("records")]
    lost, read = by_condition(report.shifts, CAPABILITY), {}
    if len(report.metrics):
        own = report.metrics[report.metrics["metric"] == "perplexity"]
        read = {condition_of(line): line for line in own.to_dict("records")}
    wanted = (("capability", lost, "total_p", "change of p(correct)"),
              ("perplexity", read, "total", "perplexity over the unchanged model's"))  # fmt: skip
    data = shifts.assign(**{name: [known.get(key, {}).get(column, np.nan) for key in keys]
                            for name, known, column, _ in wanted})  # fmt: skip
    shown = [(name, axis) for name, _, _, axis in wanted if (data["cell"][data[name].notna()]).nunique() > 1]
    if not shown:
        return
    figure, axes = panels(1, len(shown), size=(4.3 * len(shown), 2.9))
    titles: dict[str, str] = {}
    series: dict[str, str] = {}
    for place, (name, axis) in zip(axes, shown, strict=True):
        for number, (base, base_dose) in enumerate(report.headline.bases):
            points = data[(data["base"] == base) & (data["base_dose"] == base_dose)].dropna(subset=[name, "total"])
            label, look = words.human(words.named(base, base_dose)), look_of(base, base_dose)
            line = {key: look[key] for key in ("color", "linestyle", "alpha")}
            place.plot(points[name], points["total"], linewidth=1, gid=f"line-{name}-{number}", **line)
            series[f"line-{name}-{number}"] = label
            for point in points.to_dict("records"):
                gid, mark = f"{name}-{point['cell']}", {key: look[key] for key in ("color", "marker", "alpha")}
                place.plot([point[name]], [point["total"]], markersize=4, linestyle="", gid=gid, **mark)
                on = words.on_top(report.headline.vector, point["multiplier"])
                said = f"{label}, {on}: {words.signed(point['total'])} log-odds"
                titles[gid], series[gid] = f"{said}, {axis} {words.level(point[name])}", label
        place.axhline(0, color=GREY, linewidth=0.6)
        place.axvline(0 if name == "capability" else 1, color=GREY, linewidth=0.6)
        place.set_xlabel(axis)
        place.set_ylabel("change of the log-odds")
    names = ["cell", "base", "base_dose", "multiplier", "total", *(name for name, _ in shown)]
    caption = (
        "Every dose, connected on each base: change of the log-odds from the unchanged model against what it costs"
    )
    yield Drawing(name="effect_against_cost", figure=figure, data=data[names], caption=caption, titles=titles,
                  series=series)  # fmt: skip


def questions(report: Report) -> str:
    """What was asked, in words."""
    source = str(report.record.settings.get("capability.source", "own"))
    return {"own": PLAIN_FACTS, "mmlu": "MMLU", "truthfulqa": "TruthfulQA"}.get(source, source)


def capability_lines(report: Report) -> pd.DataFrame:
    """Cells with their changes: each base alone and the headline's vector on it; empty where nothing was scored."""
    changes = [name for name in report.shifts if name.startswith(("total", "shift"))]
    cells = report.measured("cells", CAPABILITY).merge(report.shifts[["cell", *changes]], on="cell", how="left")
    lines = report.leading(cells)
    plain = lines[(lines["base"] == "none") & (lines["multiplier"] == 0)]
    return lines if plain["n"].sum() else lines.iloc[:0]


def capability_finding(report: Report) -> str:
    """From which dose on it has fallen by LOSS: on each base the first of either sign, or the base alone."""
    lines = capability_lines(report).to_dict("records")
    if not lines:
        return ""
    plain = next(line for line in lines if line["base"] == "none" and not line["multiplier"])
    known = [line for line in lines if line["total_p"] == line["total_p"] and line is not plain]
    fallen = list(_fallen(lines))
    if fallen:
        first = ", ".join(f"{_at(line, report)} ({_change(line)})" for line in fallen[:NAMED])
        more = f" and {len(fallen) - NAMED} more" if len(fallen) > NAMED else ""
        said = f"Capability falls by .05 or more at {first}{more}"
        if any(line["base"] == "none" for line in known) and all(line["base"] != "none" for line in fallen):
            said += f", at no measured dose of {words.display(report.headline.vector)} alone"
    elif guesses(report, plain):
        right = f"{words.percent(plain['p_balanced'])} correct without steering, {questions(report)}"
        return f"What it costs is not known: there is little to lose ({right}, guessing is 50%)"
    elif known:
        worst = min(known, key=lambda line: float(line["total_p"]))
        said = f"Capability: no measured dose costs .05 (largest change: {_change(worst)} at {_at(worst, report)})"
    else:
        said = "The capability of no arm is known"
    right = words.percent(plain["p_balanced"])
    return f"{said}; {right} correct without steering ({questions(report)}, n {words.count(plain['n'])})"


def guesses(report: Report, plain: Mapping[str, Any]) -> bool:
    """Whether the unchanged model answers two-option facts hardly better than by chance."""
    return bool(plain["p_balanced"] < KNOWS and questions(report) == PLAIN_FACTS)


def cost_in_words(report: Report) -> str:
    """What it costs, in one sentence; an honest one where nothing was measured."""
    lines = capability_lines(report).to_dict("records")
    risen = report.leading(report.metrics) if len(report.metrics) else report.metrics
    risen = risen[(risen["metric"] == "perplexity") & (risen["total_low"] > 1)] if len(risen) else risen
    more = ""
    if len(risen):
        worst = risen.loc[risen["total"].idxmax()].to_dict()
        more = f"; perplexity rises {words.interval(worst, 'total', words.ratio)} times at {_at(worst, report)}"
    if not lines:
        return f"The capability was not measured{more}"
    lost = any(line["total_p"] <= (-FELT if line["total_p_high"] < 0 else -LOSS) for line in lines)
    plain = next(line for line in lines if line["base"] == "none" and not line["multiplier"])
    if lost or guesses(report, plain):
        return f"{capability_finding(report)}{more}"
    right = f"{words.percent(plain['p_balanced'])} correct without steering, {questions(report)}"
    return f"No measurable capability cost ({right}, n {words.count(plain['n'])}){more}"


def _span(name: str) -> list[str]:
    return [name, f"{name}_low", f"{name}_high"]


def _fit(line: Line) -> str:
    return words.or_na(line["fit_s"], words.seconds) if line["fitted"] else "no fit"


def _fallen(lines: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The first dose of each sign at which the loss is there; the base alone stands for all on top of it."""
    for place in dict.fromkeys((line["base"], line["base_dose"]) for line in lines):
        own = [line for line in lines if (line["base"], line["base_dose"]) == place]
        lost = [line for line in sorted(own, key=lambda x: abs(x["multiplier"])) if line["total_p"] <= -LOSS]
        if any(not line["multiplier"] for line in lost):
            yield next(line for line in lost if not line["multiplier"])
            continue
        for sign in (-1, 1):
            yield from [line for line in lost if line["multiplier"] * sign > 0][:1]


def _change(line: Line) -> str:
    return words.interval(line, "total_p", words.signed)


def _at(line: Line, report: Report) -> str:
    """`CAA +1`, `the positive LoRA`, `CAA +1 on the positive LoRA`."""
    base = words.with_article(line["base"], line["base_dose"])
    if not line["multiplier"]:
        return base
    vector = words.on_top(report.headline.vector, line["multiplier"])
    return vector if line["base"] == "none" else f"{vector} on {base}"


def _changes(report: Report) -> Iterator[pd.DataFrame]:
    """Capability, every metric and the answers in words, each as the same columns."""
    asked = report.leading(report.measured("shifts", CAPABILITY))
    yield _lines(asked, "total_p", measure=f"p(correct), {questions(report)}")
    if len(report.metrics):
        for (evaluator, task, metric), own in report.metrics.groupby(["evaluator", "task", "metric"], sort=False):
            name = f"{task}: {metric}" if task else metric if metric == evaluator else f"{evaluator}: {metric}"
            counted = own.assign(n=own["n_total"])
            yield _lines(report.leading(counted), "total", measure=name, unit=str(own["change"].iloc[0]))
    if report.answers is not None:
        yield _lines(report.leading(report.answers.cells), "score_total", measure="score in words, 0-1")


def _lines(table: pd.DataFrame, column: str, *, measure: str, unit: str = "difference") -> pd.DataFrame:
    names = {f"{column}{end}": f"change{end}" for end in ENDS}
    kept = table[[*PLACE, *names, "n"]].rename(columns=names)
    return kept.assign(measure=measure, unit=unit)


def _side_change(line: Line) -> str:
    return words.interval(line, "change", words.ratio if line["unit"] == "ratio" else words.signed)


def _dose(line: Line) -> str:
    return words.dose(line["multiplier"]) if line["multiplier"] else ""
