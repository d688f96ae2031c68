"""Side effects: what every arm changes beside the behavior, arm by arm, whatever was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from caa_bench.report import words
from caa_bench.report.headline import CAPABILITY
from caa_bench.report.sections import BASE, Column, Line, Section, Table
from caa_bench.report.sections.costs import questions

if TYPE_CHECKING:
    from caa_bench.report.model import Report

PLACE = ["cell", "evaluator", "base", "base_dose", "vector", "layer", "multiplier"]
ENDS = ("", "_low", "_high")


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
            Column(name="change", form=words.number, text=_change, definition="against the unchanged model"),
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


def _change(line: Line) -> str:
    return words.interval(line, "change", words.ratio if line["unit"] == "ratio" else words.signed)


def _dose(line: Line) -> str:
    return words.dose(line["multiplier"]) if line["multiplier"] else ""
