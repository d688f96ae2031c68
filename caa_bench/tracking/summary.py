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


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Answers in words as a table: a line a question and base, a column a dose, its score beside it."""

    heads: list[str]
    lines: list[list[str | float | None]]


def headline_numbers(report: Report) -> dict[str, float | str]:
    """What the table of all runs shows of this one, in a dozen columns; every other number is in the table `arms`.

    `shift` is the leading vector's effect alone at its larger dose, in log-odds with its interval; `retention` the
    middle one over the bases; `capability_change` the largest loss of any arm or stack. What is unknown is left out.
    """
    chosen, arms = report.headline, report.arms
    found: dict[str, Any] = {
        "answer": sentence(report).lines(timings=False)[0],
        "vector": chosen.vector,
        "layer": chosen.layer,
        "n": float(report.asked[0]),
        "warnings": float(len(report.notices)),
        "severe_warnings": float(report.grave),
    }
    alone = arms[(arms["base"] == "none") & (arms["multiplier"] != 0)].sort_values("multiplier").tail(1)
    for line in alone.to_dict("records"):
        found |= {"dose": line["multiplier"], "p_before": line["p_before"], "p_after": line["p_balanced"]}
        found |= {name: line[name] for name in ("shift", "shift_low", "shift_high")}
    stacks = arms[(arms["base"] != "none") & (arms["multiplier"] != 0)]
    if len(stacks):
        found["retention"] = float(stacks["retention"].median())
        counted = stacks["verdict_words"].value_counts(sort=False)
        found["verdicts"] = "; ".join(f"{told}: {count}" for told, count in counted.items() if told)
    found["capability_change"] = float(arms["capability"].min())
    return {f"headline/{name}": value for name, value in found.items() if value is not None and value == value}


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
