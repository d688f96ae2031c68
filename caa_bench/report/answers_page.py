"""The page's section on answers in words: scores and text quality, transfer beside the A/B effects, examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from caa_bench.analysis.verdict import OPPOSITE
from caa_bench.report import words
from caa_bench.report.answers import Answers, Example, examples, judged_by, leading
from caa_bench.report.grids import Cell, Grid, GridRow
from caa_bench.report.headline import Headline, at_headline, in_recipe_order, measured
from caa_bench.report.quotes import cell_quote, cell_span, line_key, line_quote, line_span

if TYPE_CHECKING:
    from caa_bench.report import Report

QUALITY: dict[str, Callable[[float], str]] = {
    "missing_share": words.share,
    "tokens": words.count,
    "distinct_1": words.number,
    "distinct_2": words.number,
    "loop_share": words.share,
    "empty_share": words.share,
    "truncated_share": words.share,
    "perplexity": words.number,
    "n": words.count,
}


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """What the section shows."""

    judged_by: str
    scores: Grid
    transfer: Grid
    examples: list[Example]


def spoken(report: Report, chosen: Headline) -> Spoken | None:
    """The section; None for a run without answers in words."""
    if report.answers is None:
        return None
    return Spoken(
        judged_by=judged_by(report.answers),
        scores=_scores(report, report.answers, chosen),
        transfer=_transfer(report, chosen),
        examples=examples(report.answers, chosen, report),
    )


def _scores(report: Report, answers: Answers, chosen: Headline) -> Grid:
    rows = []
    for cell in leading(answers, chosen, report).to_dict("records"):
        numbers: list[Cell] = [cell_span(cell, "score", words.probability)]
        numbers += [cell_span(cell, name, words.signed) for name in ("score_shift", "score_total")]
        numbers += [cell_quote(cell, name, form) for name, form in QUALITY.items()]
        dose = words.multiplier(cell["multiplier"])
        rows.append(
            GridRow(
                place="cell",
                key=str(cell["cell"]),
                names=(words.named(cell["base"], cell["base_dose"]), dose),
                cells=tuple(numbers),
                flag="text collapsed" if cell["collapsed"] else "",
            )
        )
    return Grid(
        caption="Mean score from 0 to 1 (the behavior), its shift from the base alone, its total change from the "
        "unchanged model, 95% intervals over questions; text quality: distinct word pairs, share of looping words, "
        "perplexity under the plain model",
        names=("base", "multiplier"),
        heads=("score", "score_shift", "score_total", *QUALITY),
        rows=tuple(rows),
        flagged=True,
    )


def _transfer(report: Report, chosen: Headline) -> Grid:
    """What CAA adds to the letter and to the words, in the direction of the dose."""
    lines = at_headline(measured(report.stacking), chosen)
    effects = ("alone_p", "open_ended_alone", "on_top_p", "open_ended_on_top", "open_ended_interaction")
    rows = tuple(
        GridRow(
            place="line",
            key=line_key(line),
            names=(words.named(line["base"], line["base_dose"]), words.dose(line["multiplier"])),
            cells=(
                *(line_span(line, name, words.signed) for name in effects),
                line_quote(line, "open_ended_n", words.count),
            ),
            flag=_flag(line),
        )
        for line in in_recipe_order(lines, report.manifest["recipe"].get("bases", [])).to_dict("records")
    )
    return Grid(
        caption="Does it carry over? Change of p(matching) and of the score in words, in the direction of the dose",
        names=("base", "dose"),
        heads=(*effects, "open_ended_n"),
        rows=rows,
        flagged=True,
    )


def _flag(line: dict[str, Any]) -> str:
    """The verdict's own words; else of points alone, whose difference may be chance."""
    if OPPOSITE in str(line["tags"]).split(";"):
        return OPPOSITE
    apart = line["on_top"] * line["open_ended_on_top"] < 0
    return "signs of the points differ" if apart else ""
