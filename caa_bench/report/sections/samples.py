"""The items themselves: what was asked, p in every condition, what was answered; samples.csv, answers.csv, the viewer.

The page holds the conditions that lead, as JSON within a size; the two files hold all of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from caa_bench.report import words
from caa_bench.report.headline import MEASURE
from caa_bench.report.sections import Section, Table

if TYPE_CHECKING:
    from caa_bench.report.model import Report

MOST = 480_000
"""Bytes of JSON in a page."""
SIDE = 0.5
"""p(matching) on whose other side an item has flipped."""
DISAGREE = 0.3
"""Judges that differ by as much of a score from 0 to 1 disagree."""
LOOPS = 0.5
"""Share of an answer's words in a loop from which on its text has collapsed."""
PLACE = ["base", "base_dose", "vector", "layer", "multiplier"]
SAMPLES = [
    "item", "cell", "evaluator", *PLACE, "p_balanced", "log_odds", "option_mass", "p_given", "p_swapped",
    "letter_locked", "accuracy", "error",
]  # fmt: skip
ANSWERS = [
    "item", "cell", *PLACE, "question", "text", "score", "second_score", "collapsed", "tokens", "distinct_1",
    "distinct_2", "loop_share", "empty_share", "truncated_share", "perplexity", "error",
]  # fmt: skip


class Samples(Section):
    """The viewer of items and answers, and the two files behind it."""

    name = "samples"
    title = "Read the items"
    order = 15
    needs = ("items",)

    def tables(self, report: Report) -> Sequence[Table]:
        """None: its lines are in its files, and those that lead in the page's own data."""
        return []

    def finding(self, report: Report) -> str:
        """How many there are, and how many flip."""
        shown = viewer(report)
        flips = sum(one["flips"] for one in shown["items"])
        parts = [f"{len(shown['items'])} items, {flips} change sides of p = .5"] if shown["items"] else []
        parts += [f"{len(shown['questions'])} questions answered in words"] if shown["questions"] else []
        return "; ".join(parts)

    def data(self, report: Report) -> str:
        """What the viewer reads; "" where there is nothing to read."""
        shown = viewer(report)
        return embedded(shown) if shown["items"] or shown["questions"] else ""

    def files(self, report: Report) -> dict[str, pd.DataFrame]:
        """One line an item and condition, every vector, layer and dose."""
        found = {"samples": samples_table(report)}
        return found if report.answers is None else found | {"answers": answers_table(report)}


def samples_table(report: Report) -> pd.DataFrame:
    """One line an item and condition of every multiple-choice evaluator (samples.csv): `SAMPLES`."""
    own = report.items.merge(report.cells[["cell", "evaluator", *PLACE]], on="cell", how="inner")
    return own.sort_values(["evaluator", "item"], kind="stable")[SAMPLES]


def answers_table(report: Report) -> pd.DataFrame:
    """One line a question and condition (answers.csv): `ANSWERS`.

    `collapsed` is true where the cell's text has collapsed, or where this answer is empty or mostly a loop.
    """
    if report.answers is None:
        return pd.DataFrame(columns=ANSWERS)
    places = pd.DataFrame(list(report.record.cells)).rename(columns={"key": "cell"})[["cell", *PLACE]]  # of every fit
    own = report.answers.items.merge(places, on="cell", how="inner")
    own = own.merge(report.answers.cells[["cell", "collapsed"]], on="cell", how="left")
    alone = (own["empty_share"] > 0) | (own["loop_share"] > LOOPS)
    own = own.assign(collapsed=own["collapsed"].eq(True) | alone)
    return own.sort_values(["item"], kind="stable")[ANSWERS]


def viewer(report: Report) -> dict[str, Any]:
    """What the page's viewer shows: the conditions that lead, the items with p in each, the questions with answers.

    Returns:
        `conditions` and `spoken`: `cell`, `base`, `dose` (as a reader calls them) and `own` (the place of the base
        alone); `items`: `id`, `question`, `options`, `matching`, `p` by condition (None: not known), `flips`;
        `questions`: `id`, `question`, `answers` by spoken condition: text, score, second score, collapsed; None where
        there is none. `most` is the number of items and questions that there are.
    """
    cells = report.leading(report.measured("cells", MEASURE))
    conditions = _conditions(cells, report)
    here = report.items[report.items["cell"].isin(cells["cell"])]
    table = here.pivot(index="item", columns="cell", values="p_balanced").reindex(columns=list(cells["cell"]))
    items = [_item(str(name), list(row), conditions, report.record.texts) for name, row in zip(
        table.index, table.to_numpy(), strict=True)]  # fmt: skip
    spoken: list[dict[str, Any]] = []
    questions: list[dict[str, Any]] = []
    if report.answers is not None:
        said = report.leading(report.answers.cells)
        spoken, places = _conditions(said, report), {cell: place for place, cell in enumerate(said["cell"])}
        for name, own in answers_table(report).groupby("item", sort=True):
            answers: list[Any] = [None] * len(spoken)
            for line in own[own["cell"].isin(places)].to_dict("records"):
                answers[places[line["cell"]]] = _sample_answer(line)
            questions.append({"id": str(name), "question": str(own["question"].iloc[0]), "answers": answers})
    return {"conditions": conditions, "items": items, "spoken": spoken, "questions": questions, "side": SIDE,
            "disagree": DISAGREE, "most": [len(items), len(questions)]}  # fmt: skip


def embedded(shown: Mapping[str, Any], *, most: int = MOST) -> str:
    """JSON for a `<script>`: nothing in it can end the element; items and questions beyond the size are left out."""
    share = 1.0
    while True:
        kept = {name: shown[name][: math.ceil(share * len(shown[name]))] for name in ("items", "questions")}
        text = json.dumps({**shown, **kept}, separators=(",", ":"), allow_nan=False)
        for letter in "<>&":
            text = text.replace(letter, f"\\u{ord(letter):04x}")
        if len(text) <= most or share < 0.01:
            return text
        share *= 0.95 * most / len(text)


def _conditions(cells: pd.DataFrame, report: Report) -> list[dict[str, Any]]:
    """Each with the place of its base alone."""
    lines = cells.to_dict("records")
    alone = {(x["base"], x["base_dose"]): n for n, x in enumerate(lines) if not x["multiplier"]}
    return [
        {
            "cell": line["cell"],
            "base": words.human(words.named(line["base"], line["base_dose"])),
            "dose": words.on_top(report.headline.vector, line["multiplier"]),
            "own": alone.get((line["base"], line["base_dose"])),
        }
        for line in lines
    ]


def _item(
    name: str, levels: Sequence[float], conditions: Sequence[Mapping[str, Any]], texts: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    own = texts.get(name, {})
    flips = any(
        x["own"] is not None and (levels[x["own"]] - SIDE) * (p - SIDE) < 0
        for p, x in zip(levels, conditions, strict=True)
    )
    return {
        "id": name,
        "question": str(own.get("question", "")),
        "options": list(map(str, own.get("options", ()))),
        "matching": own.get("matching"),
        "p": [None if math.isnan(p) else round(float(p), 4) for p in levels],
        "flips": flips,
    }


def _sample_answer(line: Mapping[str, Any]) -> list[Any] | None:
    if line["error"]:
        return None
    scores = [None if math.isnan(line[name]) else round(line[name], 3) for name in ("score", "second_score")]
    return [str(line["text"]), *scores, bool(line["collapsed"])]
