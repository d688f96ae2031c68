"""A run at a glance for dashboards: the headline's numbers as one flat line, and some answers in words side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from caa_bench.report import words
from caa_bench.report.answers import EXAMPLES, leading, shown
from caa_bench.report.arms import Row, rows
from caa_bench.report.headline import Headline, headline
from caa_bench.report.quotes import Span
from caa_bench.report.sentence import sentence
from caa_bench.storage.safe_text import terminal_safe

if TYPE_CHECKING:
    from caa_bench.report import Report

Place = tuple[str, float, float]


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Answers in words as a table: a line a question and base, a column a dose, its score beside it."""

    heads: list[str]
    lines: list[list[str | float | None]]


def headline_numbers(report: Report) -> dict[str, float | str]:
    """What the table of all runs shows of this one: `<base>/<alone|caa_plus|caa_minus>/<number>`, and the verdicts.

    The columns are the same for every behavior and model, the doses stand in `.../multiplier`. Unknown numbers are left
    out.
    """
    chosen = headline(report)
    arms = rows(report, chosen)
    said = sentence(report, chosen, rows=arms, costs=()).lines(timings=False)
    found: dict[str, float | str] = {
        "headline/sentence": said[0] if said else words.NA,
        "headline/vector": chosen.vector,
    }
    if chosen.layer is not None:
        found["headline/layer"] = float(chosen.layer)
    found["headline/warnings"] = float(len(report.notices))
    counts, scores = dict(zip(report.cells["cell"], report.cells["n"], strict=True)), _scores(report, chosen)
    for row in arms:
        numbers = _numbers(row) | {"n": counts[row.cell]} | scores.get(_place(row), {})
        place = f"{row.name}/{_dose(row.multiplier, chosen)}"
        found |= {f"{place}/{name}": value for name, value in numbers.items() if value == value}
    return found


def example_answers(report: Report) -> Examples | None:
    """The first questions under every base, at the headline's vector and layer; None without answers in words."""
    if report.answers is None:
        return None
    chosen = headline(report)
    here = leading(report.answers, chosen, report)
    doses = sorted(here["multiplier"].unique())
    heads = ["question", "base"]
    for dose in doses:
        name = words.on_top(chosen.vector, dose)
        heads += [name, f"{name}: score"]
    items = report.answers.items
    said = {(line["cell"], line["item"]): line for line in items.to_dict("records")}
    asked = items.drop_duplicates("item").sort_values("item")[["item", "question"]].head(EXAMPLES)
    lines: list[list[str | float | None]] = []
    for question in asked.to_dict("records"):
        for (base, base_dose), cells in here.groupby(["base", "base_dose"], sort=False):
            at = dict(zip(cells["multiplier"], cells["cell"], strict=True))
            answers = [said.get((at.get(dose), question["item"])) for dose in doses]
            own = [part for answer in answers for part in _answer(answer)]
            lines.append([terminal_safe(str(question["question"])), words.named(base, base_dose), *own])
    return Examples(heads=heads, lines=lines)


def _answer(line: Mapping[str, Any] | None) -> tuple[str | None, float | None]:
    """Text and score as shown; both None where nothing was asked."""
    if line is None:
        return None, None
    return shown(line), None if pd.isna(line["score"]) else float(line["score"])


def _numbers(row: Row) -> dict[str, float | str]:
    """Levels, effects and the verdict of one arm or stack, in the words of cells.csv and stacking.csv."""
    found: dict[str, float | str] = dict(_ends("p_balanced", row.after_span))
    found |= _ends("shift", row.effect) | _ends("retention", row.kept) | _ends("capability_change", row.capability)
    found["option_mass"] = row.option_mass.value
    if row.multiplier:
        found["multiplier"] = row.multiplier
    if row.told:
        found["verdict"] = row.told
    return found


def _ends(name: str, span: Span | None) -> dict[str, float | str]:
    if span is None:
        return {}
    return {name: span.point.value, f"{name}_low": span.low.value, f"{name}_high": span.high.value}


def _scores(report: Report, chosen: Headline) -> dict[Place, dict[str, float | str]]:
    """Of the answers in words, by base and dose."""
    if report.answers is None:
        return {}
    return dict(_score_lines(leading(report.answers, chosen, report)))


def _score_lines(cells: pd.DataFrame) -> Iterator[tuple[Place, dict[str, float | str]]]:
    for line in cells.to_dict("records"):
        numbers = {name: line[name] for name in ("score", "score_low", "score_high")} | {"score_n": line["n"]}
        yield (str(line["base"]), float(line["base_dose"]), float(line["multiplier"])), numbers


def _place(row: Row) -> Place:
    return row.base, row.base_dose, row.multiplier


def _dose(multiplier: float, chosen: Headline) -> str:
    """No number in it: a dot in a key would be a level of its own, and another dose another column."""
    return f"{chosen.vector}_{'plus' if multiplier > 0 else 'minus'}" if multiplier else "alone"
