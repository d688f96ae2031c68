"""The items themselves: what was asked, p in every condition, what was answered; samples.csv, answers.csv, the viewer.

The page holds the conditions that lead, as JSON within a size; the two files hold all of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from caa_bench.report import words
from caa_bench.report.headline import MEASURE, OPEN_ENDED
from caa_bench.report.leads import metric_cell
from caa_bench.report.sections import Section, Table

if TYPE_CHECKING:
    from caa_bench.report.model import Report

MOST = 480_000
"""Bytes of JSON in a page."""
SIDE = 0.5
"""p(matching) on whose other side an item has flipped."""
FAR = 0.05
"""How much p must have changed for it: from .499 to .502 nothing has."""
DISAGREE = 0.3
"""Judges that differ by as much of a score from 0 to 1 disagree."""
LOOPS = 0.5
"""Share of an answer's words in a loop from which on its text has collapsed."""
PLACE = ["base", "base_dose", "vector", "layer", "multiplier"]
ANSWERS = [
    "item", "cell", *PLACE, "question", "text", "score", "second_score", "collapsed", "tokens", "distinct_1",
    "distinct_2", "loop_share", "empty_share", "truncated_share", "perplexity", "server", "error",
]  # fmt: skip
SAMPLES = [
    "item", "cell", "evaluator", *PLACE, "p_balanced", "log_odds", "option_mass", "p_given", "p_swapped",
    "letter_locked", "accuracy", "error",
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
        shown = report.once("viewer", lambda: viewer(report))
        flips = sum(one["flips"] for one in shown["items"])
        parts = (
            [f"{len(shown['items'])} items, {flips} flip (p changes sides of .5, by {FAR:.2f} or more)"]
            if shown["items"]
            else []
        )
        parts += [f"{len(shown['questions'])} questions answered in words"] if shown["questions"] else []
        return "; ".join(parts)

    def data(self, report: Report) -> str:
        """What the viewer reads; "" where there is nothing to read."""
        shown = report.once("viewer", lambda: viewer(report))
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
        `questions`: `id`, `question`, `answers` by spoken condition: text, score, second score, collapsed, whether a
        server generated it; None where there is none. `most` is the number of items and questions that there are.
        `more`: every other condition, `cell`, `name`, `evaluator`, `own` (the cell of its base alone) and `p` by item
        of `asked`[evaluator]; of a metric, its value. `texts`: what is known of the items of `asked`, by id.
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
    asked, more = _others(report, leading={x["cell"] for x in [*conditions, *spoken]})
    return {"conditions": conditions, "items": items, "spoken": spoken, "questions": questions, "side": SIDE,
            "disagree": DISAGREE, "most": [len(items), len(questions)], "asked": asked, "more": more,
            "texts": _texts_of(report, asked)}  # fmt: skip


def embedded(shown: Mapping[str, Any], *, most: int = MOST) -> str:
    """JSON for a `<script>`: nothing in it can end the element. Beyond the size the conditions that do not lead lose
    their items first, from the last one on; then items and questions are left out."""
    share = 1.0
    more = list(shown.get("more", ()))
    spare = most - len(_script_json({**shown, "more": [], "asked": {}, "texts": {}} if more else shown))
    while more and (rest := len(_script_json([shown["asked"], shown["texts"], more])) - spare) > 0:
        more = more[: -max(1, rest // max(len(_script_json(more[-1])), 1))]
    beside = {name: shown[name] if more else {} for name in ("asked", "texts") if name in shown}
    kept = {**beside, "more": more} if "more" in shown else {}
    while True:
        parts = {name: shown[name][: math.ceil(share * len(shown[name]))] for name in ("items", "questions")}
        text = _script_json({**shown, **kept, **parts})
        if len(text) <= most or share < 0.01:
            return text
        share *= 0.95 * most / len(text)


def _script_json(value: Any) -> str:
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _others(report: Report, *, leading: Collection[str]) -> tuple[dict[str, list[str]], list[dict[str, Any]]]:
    """The items of each multiple-choice evaluator, and every condition that does not lead, placebos last."""
    asked = {name: sorted(own["item"].unique()) for name, own in _told(report).groupby("evaluator", sort=False)}
    cells = report.cells.set_index("cell", drop=False)
    alone = {(x["evaluator"], x["base"], x["base_dose"]): cell for cell, x in cells.iterrows() if not x["multiplier"]}
    found = []
    for cell, own in _told(report).groupby("cell", sort=False):
        if cell in leading:
            continue
        line = cells.loc[cell]
        p = own.set_index("item")["p_balanced"].reindex(asked[line["evaluator"]])
        still = alone.get((line["evaluator"], line["base"], line["base_dose"]))
        found.append(_other(line, p, evaluator=line["evaluator"], own=still))
    placebos = report.record.placebos
    found.sort(key=lambda one: cells.loc[one["cell"], "vector"] in placebos)
    return asked, [*_metric_conditions(report, asked), *_spoken(report, asked, leading=leading), *found]


def _texts_of(report: Report, asked: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Question, options and the right one of the items that do not lead, by id, as far as the run kept them."""
    beside = {item for name, items in asked.items() if name not in (MEASURE, OPEN_ENDED) for item in items}
    return {name: text for name, text in report.record.texts.items() if name in beside}


def _metric_conditions(report: Report, asked: dict[str, list[str]]) -> Iterator[dict[str, Any]]:
    """The conditions of metrics, each metric by itself; `asked` gets their items."""
    lines = {metric_cell(line): line for line in report.metrics.to_dict("records")}
    for (cell, task, metric), own in report.metric_items.groupby(["cell", "task", "metric"], sort=False):
        name = metric_cell({"cell": cell, "task": task, "metric": metric})
        if name not in lines:  # a further fit's
            continue
        kind = f"{task}: {metric}" if task else str(metric)
        items = asked.setdefault(kind, sorted(own["item"]))
        values = own.set_index("item")["value"].reindex(items)
        alone = {"multiplier": 0.0, "base": lines[name]["base"], "base_dose": lines[name]["base_dose"]}
        same = (key for key, x in lines.items() if alone.items() <= x.items() and key.endswith(f"|{task}|{metric}"))
        yield _other(lines[name], values, evaluator=kind, own=next(same, None), cell=name)


def _spoken(report: Report, asked: dict[str, list[str]], *, leading: Collection[str]) -> Iterator[dict[str, Any]]:
    """The scores of the answers in words in the conditions that do not lead; their texts are in answers.csv."""
    if report.answers is None:
        return
    cells = report.answers.cells.set_index("cell", drop=False)
    asked[OPEN_ENDED] = sorted(report.answers.items["item"].unique())
    alone = {(x["base"], x["base_dose"]): cell for cell, x in cells.iterrows() if not x["multiplier"]}
    for cell, own in report.answers.items.groupby("cell", sort=False):
        if cell in cells.index and cell not in leading:
            score = own.set_index("item")["score"].reindex(asked[OPEN_ENDED])
            line = cells.loc[cell]
            yield _other(line, score, evaluator=OPEN_ENDED, own=alone.get((line["base"], line["base_dose"])))


def _other(
    line: Mapping[str, Any], values: pd.Series, *, evaluator: str, own: str | None, cell: str = ""
) -> dict[str, Any]:
    """A condition that does not lead, with a number an item."""
    known = [None if math.isnan(x) or math.isinf(x) else float(f"{x:.3g}") for x in values]
    name = _condition_name(line)
    return {"cell": cell or line["cell"], "name": name, "evaluator": evaluator, "own": own, "p": known}


def _told(report: Report) -> pd.DataFrame:
    return report.items.merge(report.cells[["cell", "evaluator"]], on="cell", how="inner")


def _condition_name(line: Mapping[str, Any]) -> str:
    """`CAA +1 at layer 3 on the positive LoRA`, `the unchanged model`."""
    base = words.with_article(line["base"], line["base_dose"])
    if not line["multiplier"]:
        return base
    layer = "" if line["layer"] != line["layer"] else f" at layer {words.count(line['layer'])}"
    return f"{words.on_top(line['vector'], line['multiplier'])}{layer} on {base}"


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
        x["own"] is not None and (levels[x["own"]] - SIDE) * (p - SIDE) < 0 and abs(p - levels[x["own"]]) >= FAR
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
    return [str(line["text"]), *scores, bool(line["collapsed"]), bool(line["server"])]
