"""The answers of a run in words: scored, weighed against their quality, and a few side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from caa_bench.analysis.answers import COLUMNS, answer_scores, answer_table, judge_table
from caa_bench.analysis.effects import open_effects
from caa_bench.analysis.estimates import Resampling
from caa_bench.analysis.frames import grouped
from caa_bench.judges.base import Asked, Judgement
from caa_bench.judges.judgements import FILE, Judgements, judgement_key
from caa_bench.report import words
from caa_bench.report.columns import WIDTH, columns
from caa_bench.report.headline import Headline
from caa_bench.report.headline import leading as leading_cells
from caa_bench.storage.safe_text import terminal_safe

if TYPE_CHECKING:
    from caa_bench.report import Report

EVALUATOR = "open_ended"
EXAMPLES = 2


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a run's answers come to.

    Args:
        cells: one line a cell (part of cells.csv), in the plan's order.
        items: one line a cell and question, with the text.
        judges: one line a judge (judges.csv), the leading one first.
        effects: the stacking effects of the score (part of stacking.csv).
    """

    cells: pd.DataFrame
    items: pd.DataFrame
    judges: pd.DataFrame
    effects: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class Example:
    """One question and what was said to it on the unchanged model, by ascending dose.

    Args:
        said: (dose, answer, score) as shown.
    """

    question: str
    said: tuple[tuple[str, str, str], ...]


def find_answers(
    folder: Path, rows: Sequence[dict[str, Any]], cells: pd.DataFrame, *, facts: dict[str, Any], how: Resampling
) -> Answers:
    """The tables of the answers: a pure function of the rows and the judgements beside them.

    Args:
        rows: of the answers.
        cells: the plan's open-ended cells, indexed by `cell`.
        facts: the manifest's; `judges` are those of the last run.
    """
    judges, kept = facts.get("judges", []), Judgements(folder / FILE)
    said = [[_said(judge, row, kept) for row in rows] for judge in judges]
    scores = [[None if one is None else one.score for one in own] for own in said]
    unjudged = [sum(bool(row["text"]) and one is None for row, one in zip(rows, own, strict=True)) for own in said]
    items = answer_scores(rows, scores)
    table = judge_table(judges, scores, unjudged)
    lead, accuracy = (table.loc[0, "judge"], table.loc[0, "held_out_accuracy"]) if len(table) else ("", float("nan"))
    groups = grouped(items, cells)
    return Answers(
        cells=answer_table(groups, judge=lead, accuracy=accuracy, how=how)[COLUMNS],
        items=items,
        judges=table,
        effects=open_effects(groups, how=how),
    )


def leading(answers: Answers, chosen: Headline, report: Report) -> pd.DataFrame:
    """The cells of the headline's vector and layer and the bases alone, base by base, by ascending dose."""
    return leading_cells(answers.cells, chosen, report.manifest["recipe"].get("bases", []))


def examples(answers: Answers, chosen: Headline, report: Report) -> list[Example]:
    """The first questions on the unchanged model, every dose."""
    here = leading(answers, chosen, report)
    own = here[here["base"] == "none"]
    doses = dict(zip(own["cell"], own["multiplier"], strict=True))
    said = answers.items[answers.items["cell"].isin(doses)]
    found = []
    for _, part in list(said.groupby("item", sort=True))[:EXAMPLES]:
        ordered = part.assign(dose=part["cell"].map(doses)).sort_values("dose").to_dict("records")
        doses_said = [words.dose(line["dose"]) if line["dose"] else "alone" for line in ordered]
        lines = tuple((dose, shown(x), words.number(x["score"])) for dose, x in zip(doses_said, ordered, strict=True))
        found.append(Example(question=terminal_safe(str(ordered[0]["question"])), said=lines))
    return found


def shown(line: Mapping[str, Any]) -> str:
    """An answer as it may be printed: no control characters, cut where the model was, marked where there is none."""
    if line["error"]:
        return "(error)"
    text = terminal_safe(str(line["text"])) or "(empty)"
    return f"{text} ..." if line["truncated_share"] else text


def judged_by(answers: Answers) -> str:
    """Who scored, how good that judge is known to be, and how far a second one agrees; one sentence each."""
    said = []
    for place, line in enumerate(answers.judges.to_dict("records")):
        accuracy = line["held_out_accuracy"]
        known = "" if pd.isna(accuracy) else f", right on {accuracy:.0%} of the held-out answer texts"
        agreed = f", weighted kappa with {answers.judges.loc[0, 'judge']} {words.number(line['agreement'])}"
        agreed = f"{agreed} over {line['n_agreement']:,} answers" if place else ""
        said.append(f"{line['judge']} ({line['scored']:,} of {line['answers']:,} answers scored{known}{agreed})")
    return f"Judged by {'; '.join(said)}." if said else "Not judged yet: run the same command again."


def section(report: Report, chosen: Headline) -> str:
    """The printed section: the score of every base and dose, and the first example."""
    if report.answers is None:
        return ""
    here = leading(report.answers, chosen, report)
    multipliers = sorted(here["multiplier"].unique())
    table = []
    for base, dose in dict.fromkeys(zip(here["base"], here["base_dose"], strict=True)):
        at = here[(here["base"] == base) & (here["base_dose"] == dose)].set_index("multiplier")
        levels = [score_text(at.loc[m]) if m in at.index else "" for m in multipliers]
        table.append([words.named(base, dose), *levels])
    heads = ["base", *(words.on_top(chosen.vector, m) for m in multipliers)]
    title = "Answers in words: mean score from 0 to 1 (the behavior), 95% interval; * its text has collapsed"
    parts = [title, columns(heads, table), *textwrap.wrap(judged_by(report.answers), WIDTH - 2)]
    return "\n".join([*parts, *_printed(examples(report.answers, chosen, report)[:1])])


def score_text(cell: Any) -> str:
    """`.84 [.80, .88]` of a cell, with its mark; the point alone where there is no interval."""
    return ("*" if cell["collapsed"] else "") + words.interval(cell, "score", words.probability)


def _printed(shown: Sequence[Example]) -> Iterator[str]:
    for example in shown:
        yield from textwrap.wrap(f"Asked: {example.question}", WIDTH - 2, initial_indent="  ", subsequent_indent="    ")
        for dose, text, _ in example.said:
            yield from textwrap.wrap(f"{dose}: {text}", WIDTH - 4, initial_indent="    ", subsequent_indent="      ")


def _said(judge: dict[str, Any], row: dict[str, Any], kept: Judgements) -> Judgement | None:
    if not row["text"]:
        return None
    key = judgement_key(judge["settings"], Asked(question=row["question"], text=row["text"]))
    return kept.of(judge["name"]).get(key)
