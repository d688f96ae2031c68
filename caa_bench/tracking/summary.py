"""A run at a glance for dashboards: the headline's numbers as one flat line, and some answers in words side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from caa_bench.report import words
from caa_bench.report.sections.measures import EXAMPLES, shown
from caa_bench.report.sentence import sentence
from caa_bench.storage.safe_text import terminal_safe

if TYPE_CHECKING:
    from caa_bench.report import Report

NUMBERS = (
    "p_balanced", "p_balanced_low", "p_balanced_high", "shift", "shift_low", "shift_high", "retention",
    "retention_low", "retention_high", "capability", "capability_low", "capability_high", "option_mass", "n",
)  # fmt: skip


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
    chosen = report.headline
    found: dict[str, float | str] = {
        "headline/sentence": sentence(report).lines(timings=False)[0],
        "headline/vector": chosen.vector,
        "headline/warnings": float(len(report.notices)),
    }
    if chosen.layer is not None:
        found["headline/layer"] = float(chosen.layer)
    scores = _scores(report)
    for line in report.arms.to_dict("records"):
        numbers: dict[str, Any] = {name: line[name] for name in NUMBERS}
        numbers |= {"multiplier": line["multiplier"]} if line["multiplier"] else {}
        numbers |= {"verdict": line["told"]} if line["told"] else {}
        numbers |= scores.get((line["base"], line["base_dose"], line["multiplier"]), {})
        place = f"{words.named(line['base'], line['base_dose'])}/{_dose_key(line['multiplier'], chosen.vector)}"
        found |= {f"{place}/{name}": value for name, value in numbers.items() if value == value}
    return found


def example_answers(report: Report) -> Examples | None:
    """The first questions under every base, at the headline's vector and layer; None without answers in words."""
    if report.answers is None:
        return None
    here = report.leading(report.answers.cells)
    doses = sorted(here["multiplier"].unique())
    heads = ["question", "base"]
    for dose in doses:
        name = words.on_top(report.headline.vector, dose)
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


def _scores(report: Report) -> dict[tuple[str, float, float], dict[str, float]]:
    """Of the answers in words, by base, its dose and the multiplier."""
    if report.answers is None:
        return {}
    names = {"score": "score", "score_low": "score_low", "score_high": "score_high", "n": "score_n"}
    return {
        (line["base"], line["base_dose"], line["multiplier"]): {own: line[name] for name, own in names.items()}
        for line in report.leading(report.answers.cells).to_dict("records")
    }


def _dose_key(multiplier: float, vector: str) -> str:
    """No number in it: a dot in a key would be a level of its own, and another dose another column."""
    return f"{vector}_{'plus' if multiplier > 0 else 'minus'}" if multiplier else "alone"
