"""The first table: a row per arm and per stack at the headline's layer and doses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from caa_bench.analysis.fairness import within_placebo
from caa_bench.analysis.verdict import OPPOSITE, opposite
from caa_bench.report import words
from caa_bench.report.conditions import Key, capability_lines, condition_of
from caa_bench.report.headline import Headline, at_headline, measured, placebos
from caa_bench.report.quotes import Quote, Span, cell_quote, cell_span, line_key, line_quote, line_span

if TYPE_CHECKING:
    from caa_bench.report import Report


@dataclass(frozen=True, kw_only=True)
class Row:
    """One arm alone, or the vector on top of it. None: the column does not apply.

    Args:
        kind: `none`, `base` (a base alone), `vector` (the vector alone) or `stack`.
        multiplier: of the vector; 0 for a base alone.
        before / after: p(matching) without and with what the row adds.
        effect: shift of the log-odds, + towards matching: the base's own, or the vector's on its base.
        retention, room, detectable, verdict, tags, caveats: of the stacking line.
        told: verdict and tags in words, "no room" first, without the numbers that stand beside them anyway.
        option_mass: in the row's own cell.
        capability: change of p(correct) from the unchanged model.
        in_words: the effect on the judged score of answers in words (0-1), where there are some.
        line: the stacking line's key.
        cell: the row's own cell.
    """

    kind: str
    base: str
    base_dose: float
    multiplier: float
    after: Quote
    option_mass: Quote
    cell: str
    after_span: Span
    before: Quote | None = None
    effect: Span | None = None
    retention: Span | None = None
    room: Quote | None = None
    detectable: Quote | None = None
    capability: Span | None = None
    in_words: Span | None = None
    verdict: str = ""
    told: str = ""
    tags: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()
    line: str = ""

    @property
    def kept(self) -> Span | None:
        """The retention, where it is known and nothing forbids a verdict."""
        refused = self.verdict.startswith(("no verdict", "not measurable"))
        return self.retention if self.retention is not None and self.retention.point.known and not refused else None

    @property
    def name(self) -> str:
        """`system_prompt_positive`, and `CAA +1` for what is put on it."""
        return words.named(self.base, self.base_dose)


def rows(report: Report, chosen: Headline) -> list[Row]:
    """Every row, base by base in the recipe's order: the base alone, then the vector on it at each headline dose."""
    losses, spoken, conditions = capability_lines(report.shifts), _spoken(report), report.cells.set_index("cell")
    made = []
    for row in _rows(report, chosen):
        condition = condition_of(conditions.loc[row.cell])
        lost, said = losses.get(condition), spoken.get(condition)
        if row.kind != "none":
            lost_span = None if lost is None else cell_span(lost, "total_p", words.signed)
            row = replace(row, capability=lost_span, in_words=None if said is None else _in_words(row, said))
        made.append(row if row.kind == "stack" else _with_opposite(row))
    return made


def _spoken(report: Report) -> dict[Key, dict[str, Any]]:
    """The cells of answers in words, by condition."""
    cells = [] if report.answers is None else report.answers.cells.to_dict("records")
    return {condition_of(cell): cell for cell in cells}


def _in_words(row: Row, said: dict[str, Any]) -> Span:
    """Against what the row's own effect is: the unchanged model for a base alone, the base for what is put on it."""
    return cell_span(said, "score_total" if row.kind == "base" else "score_shift", words.signed)


def _with_opposite(row: Row) -> Row:
    """An arm alone has no verdict to say it: that what it does to the words is the opposite."""
    if row.effect is None or row.in_words is None or not opposite(row.effect.ends, row.in_words.ends):
        return row
    return replace(row, tags=(OPPOSITE,), told="; ".join(filter(None, (row.told, OPPOSITE))))


def _rows(report: Report, chosen: Headline) -> Iterator[Row]:
    shifts = measured(report.shifts)
    inside = within_placebo(shifts, placebos=placebos()).set_axis(shifts["cell"])
    steered = at_headline(shifts, chosen)
    stacking = at_headline(measured(report.stacking), chosen)
    lines = {(x["base"], x["base_dose"], x["multiplier"]): x for x in stacking.to_dict("records")}
    masses = measured(report.cells).set_index("cell", drop=False)
    still = {(x["base"], x["base_dose"]): x for x in shifts[shifts["multiplier"] == 0].to_dict("records")}
    for base, base_dose in chosen.bases:
        alone = still.get((base, base_dose))
        if alone is not None:
            yield _base_row(alone, masses.loc[alone["cell"]], unchanged=still.get(("none", 1.0)))
        here = steered[(steered["base"] == base) & (steered["base_dose"] == base_dose)]
        for shift in here[here["multiplier"].isin(chosen.doses)].to_dict("records"):
            line = lines.get((base, base_dose, shift["multiplier"]))
            cell = masses.loc[shift["cell"]]
            yield (
                _stack_row(shift, cell, alone=alone, line=line)
                if line
                else _vector_row(shift, cell, alone=alone, placebo=inside[shift["cell"]])
            )


def verdict_words(verdict: str, tags: Sequence[str]) -> str:
    """`no room; adds fully; log-odds only`."""
    plain = [tag.split(" (")[0] for tag in tags if tag]
    return "; ".join(
        [*("no room" for tag in plain if tag == "no room"), verdict, *(t for t in plain if t != "no room")]
    )


def _own(cell: Any) -> dict[str, Any]:
    """What every row has."""
    return {
        "base": str(cell["base"]),
        "base_dose": float(cell["base_dose"]),
        "multiplier": float(cell["multiplier"]),
        "after": cell_quote(cell, "p_balanced", words.probability),
        "after_span": cell_span(cell, "p_balanced", words.probability),
        "option_mass": cell_quote(cell, "option_mass", words.probability),
        "cell": str(cell["cell"]),
    }


def _base_row(shift: dict[str, Any], cell: Any, *, unchanged: dict[str, Any] | None) -> Row:
    own = _own(cell)
    if shift["base"] == "none" or unchanged is None:
        return Row(kind="none" if shift["base"] == "none" else "base", **own)
    before = cell_quote(unchanged, "p_balanced", words.probability)
    return Row(kind="base", before=before, effect=cell_span(shift, "total", words.signed), **own)


def _vector_row(shift: dict[str, Any], cell: Any, *, alone: dict[str, Any] | None, placebo: Any) -> Row:
    before = cell_quote(alone, "p_balanced", words.probability) if alone else None
    text = "" if pd.isna(placebo) else "within placebos" if placebo else "beyond placebos"
    return Row(kind="vector", before=before, effect=cell_span(shift, "shift", words.signed), told=text, **_own(cell))


def _stack_row(shift: dict[str, Any], cell: Any, *, alone: dict[str, Any] | None, line: dict[str, Any]) -> Row:
    return Row(
        kind="stack",
        before=cell_quote(alone, "p_balanced", words.probability) if alone else None,
        effect=cell_span(shift, "shift", words.signed),
        retention=line_span(line, "retention", words.number),
        room=line_quote(line, "room", words.probability),
        detectable=line_quote(line, "detectable_effect", words.number),
        verdict=str(line["verdict"]),
        told=verdict_words(str(line["verdict"]), str(line["tags"]).split(";")),
        tags=tuple(filter(None, str(line["tags"]).split(";"))),
        caveats=tuple(filter(None, str(line["caveats"]).split(";"))),
        line=line_key(line),
        **_own(cell),
    )
