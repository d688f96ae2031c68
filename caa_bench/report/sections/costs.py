"""Sections about what an arm costs, and what was chosen by it: matched doses, fits, capability lost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from caa_bench.report import words
from caa_bench.report.arms import costs
from caa_bench.report.choices import retest_command, tries_of
from caa_bench.report.headline import CAPABILITY
from caa_bench.report.sections import Column, Line, Section, Table, levels

if TYPE_CHECKING:
    from caa_bench.report.model import Report

P, SIGNED = words.probability, words.signed
LOSS = 0.05
"""The smallest loss of p(correct) that is reported."""
NAMED = 3


class Matched(Section):
    """The dose of each base that moves the behavior as far as the vector's own chosen dose."""

    name = "matched"
    title = "Matched doses"
    order = 30
    needs = ("matched",)
    note = (
        "For each base the dose whose effect alone is nearest to that of the dose chosen for the vector in the same "
        "direction, in log-odds with 95% intervals; gap: between the two, item by item. * the first or last of three "
        "or more doses tried."
    )

    def tables(self, report: Report) -> Sequence[Table]:
        """A line a base."""
        name = words.display(report.headline.vector) or "vector"
        columns = (
            Column(name="base", text=_matched_base),
            Column(name="total", label="effect alone", form=SIGNED, interval=True),
            Column(name="multiplier", label=name, text=lambda x: _or_na(x["multiplier"], words.dose)),
            Column(name="target", label="its effect", form=SIGNED, interval=True),
            Column(name="gap", form=SIGNED, interval=True),
            Column(name="gap_n", label="n", form=words.count),
            Column(name="tries", form=words.count),
        )
        return [Table(frame=report.matched, columns=columns, file=self.name, key=("base",))]

    def finding(self, report: Report) -> str:
        """Everyone's tries."""
        return f"Tries on the selection split: {tries_of(report)}."

    def steps(self, report: Report) -> tuple[str, str]:
        """The command that measures both doses on the test split."""
        command = retest_command(report)
        return ("Then measure the full and the matched dose on the test split:", command) if command else ("", "")


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
                form=lambda x: _or_na(x, words.size),
                blank=lambda x: not x["fitted"],
            ),
            Column(name="capability", form=SIGNED, interval=True, definition="change of p(correct)"),
        )
        return [Table(frame=frame[[*kept, "fit_s"]], columns=columns, file=self.name, where="page")]


class EqualLoss(Section):
    """The largest shift of each arm alone among the doses that cost no more capability."""

    name = "equal_loss"
    title = "Effect at equal capability loss"
    order = 90
    needs = ("equal_loss",)
    note = (
        "The largest shift of each arm alone, in its own direction, among all doses measured here that lose no more "
        "than so much p(correct): a description, nothing is chosen by it. It uses the estimated loss, not its "
        "interval. Log-odds, + towards matching."
    )

    def tables(self, report: Report) -> Sequence[Table]:
        """A line an arm and budget."""
        swept = len(report.headline.layers) > 1
        columns = (
            Column(name="arm"),
            Column(name="budget", label="loss up to", text=lambda x: f"{x['budget']:g}".removeprefix("0")),
            Column(name="multiplier", label="at", text=lambda x: _reached(x, swept=swept)),
            Column(name="total", label="shift", form=SIGNED, interval=True),
            Column(name="n", form=words.count),
            Column(name="total_p", label="change of p(correct)", form=SIGNED, interval=True),
            Column(name="capability_n", label="n", form=words.count),
            Column(name="doses", label="doses within", form=words.count),
        )
        return [Table(frame=report.equal_loss, columns=columns, file=self.name, key=("arm", "budget"), where="detail")]


def questions(report: Report) -> str:
    """What was asked, in words."""
    source = str(report.record.settings.get("capability.source", "own"))
    return {"own": "plain facts", "mmlu": "MMLU", "truthfulqa": "TruthfulQA"}.get(source, source)


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
    elif known:
        worst = min(known, key=lambda line: float(line["total_p"]))
        said = f"Capability: no measured dose costs .05 (largest change: {_change(worst)} at {_at(worst, report)})"
    else:
        said = "The capability of no arm is known"
    right = words.percent(plain["p_balanced"])
    return f"{said}; {right} correct without steering ({questions(report)}, n {words.count(plain['n'])})"


def _span(name: str) -> list[str]:
    return [name, f"{name}_low", f"{name}_high"]


def _matched_base(line: Line) -> str:
    if math.isnan(line["base_dose"]):
        return str(line["base"])
    return words.named(line["base"], line["base_dose"]) + ("*" if line["at_edge"] is True else "")


def _fit(line: Line) -> str:
    return _or_na(line["fit_s"], words.seconds) if line["fitted"] else "no fit"


def _or_na(value: float, form: words.Form) -> str:
    return words.NA if math.isnan(value) else form(value)


def _reached(line: Line, *, swept: bool) -> str:
    """Where it is reached: `+1`, `+1, layer 3` in a sweep, `x0.25` of a base."""
    if math.isnan(line["base_dose"]):
        return words.NA
    if line["base"] != "none":
        return f"x{line['base_dose']:g}"
    return words.dose(line["multiplier"]) + (f", layer {words.count(line['layer'])}" if swept else "")


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
