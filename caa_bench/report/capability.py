"""The capability that each arm costs: against the unchanged model, by the dose at which it is lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from caa_bench.report import words
from caa_bench.report.columns import folded, level_text
from caa_bench.report.conditions import CAPABILITY
from caa_bench.report.grids import Cell, Grid, GridRow
from caa_bench.report.headline import Headline, leading
from caa_bench.report.quotes import Quote, Span, cell_quote, cell_span

if TYPE_CHECKING:
    import pandas as pd

    from caa_bench.report import Report

LOSS = 0.05
"""Of p(correct): what a reader is told of."""
_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Capability:
    """What was measured of it at the headline's layer.

    Args:
        questions: what was asked, in words.
        unchanged: p(correct) of the unchanged model.
        lines: one a condition, by base and rising multiplier: cells.csv and shifts.csv joined.
    """

    questions: str
    unchanged: Quote
    lines: tuple[dict[str, Any], ...]


def capability(report: Report, chosen: Headline) -> Capability | None:
    """The capability of a run; None where nothing of it was measured."""
    lines = tuple(_lines(report, chosen).to_dict("records"))
    unchanged = next((x for x in lines if x["base"] == "none" and not x["multiplier"]), None)
    if unchanged is None or not unchanged["n"]:
        return None
    return Capability(
        questions=f"{questions(report)}, n {words.count(unchanged['n'])}",
        unchanged=cell_quote(unchanged, "p_balanced", words.probability),
        lines=lines,
    )


def questions(report: Report) -> str:
    """What was asked, in words."""
    source = str(report.manifest["recipe"].get("capability.source", "own"))
    return {"own": "plain facts", "mmlu": "MMLU", "truthfulqa": "TruthfulQA"}.get(source, source)


def loss_clause(found: Capability, chosen: Headline) -> tuple[str | Quote | Span, ...]:
    """From which dose on it has fallen by LOSS: on each base the first of either sign, or the base alone."""
    fallen = list(_fallen(found))
    known = [line for line in found.lines if line["total_p"] == line["total_p"] and _name(line, chosen) != "none"]
    parts: list[str | Quote | Span] = []
    if not fallen and not known:
        parts = ["the capability of no arm is known"]
    elif not fallen:
        worst = min(known, key=lambda line: float(line["total_p"]))
        parts = ["no measured dose costs .05 of capability (most: ", _change(worst), f" at {_name(worst, chosen)})"]
    for place, line in enumerate(fallen[:_NAMED]):
        parts += [", " if place else "capability falls by .05 at ", f"{_name(line, chosen)} (", _change(line), ")"]
    if len(fallen) > _NAMED:
        parts.append(f" and {len(fallen) - _NAMED} more")
    if any(line["base"] == "none" for line in known) and fallen and all(line["base"] != "none" for line in fallen):
        parts.append(f", at no measured dose of {words.vector_name(chosen.vector)} alone")
    return (*parts, "; unchanged p(correct) ", found.unchanged, f", {found.questions}")


def capability_text(found: Capability, chosen: Headline) -> str:
    """p(correct) of every base at every multiplier, as printed."""
    multipliers = sorted({float(line["multiplier"]) for line in found.lines})
    table = []
    for base, base_dose in chosen.bases:
        at = {x["multiplier"]: x for x in found.lines if (x["base"], x["base_dose"]) == (base, base_dose)}
        if at:
            table.append([words.named(base, base_dose), *(level_text(at[m]) if m in at else "" for m in multipliers)])
    heads = ["base", *(words.on_top(chosen.vector, m) for m in multipliers)]
    return f"Capability ({found.questions}): p(correct), 95% interval\n{folded(heads, table)}"


def capability_grid(found: Capability) -> Grid:
    """The page's table: levels, accuracy and changes of every condition."""
    rows = []
    for line in found.lines:
        numbers: list[Cell] = [cell_span(line, name, words.probability) for name in ("p_balanced", "accuracy")]
        numbers += [cell_span(line, name, words.signed) for name in ("total_p", "shift_p")]
        numbers += [cell_quote(line, "option_mass", words.probability), cell_quote(line, "letter_locked", words.share)]
        numbers += [cell_quote(line, name, words.count) for name in ("n", "errors")]
        dose = words.multiplier(line["multiplier"])
        names = (words.named(line["base"], line["base_dose"]), dose)
        rows.append(GridRow(place="cell", key=str(line["cell"]), names=names, cells=tuple(numbers)))
    return Grid(
        caption=f"{found.questions}, mean over categories; total_p: change of p(correct) from the unchanged model, "
        "shift_p: from its own base",
        names=("base", "multiplier"),
        heads=("p(correct)", "accuracy", "total_p", "shift_p", "option_mass", "letter_locked", "n", "errors"),
        rows=tuple(rows),
    )


def _lines(report: Report, chosen: Headline) -> pd.DataFrame:
    """Cells with their shifts: each base alone and the headline's vector on it."""
    changes = [name for name in report.shifts if name.startswith(("total", "shift"))]
    cells = report.cells[report.cells["evaluator"] == CAPABILITY]
    cells = cells.merge(report.shifts[["cell", *changes]], on="cell", how="left")
    return leading(cells, chosen, report.manifest["recipe"].get("bases", []))


def _fallen(found: Capability) -> Iterator[dict[str, Any]]:
    """The first dose of each sign at which the loss is there; the base alone stands for all on top of it."""
    bases = dict.fromkeys((line["base"], line["base_dose"]) for line in found.lines)
    for base in bases:
        own = [line for line in found.lines if (line["base"], line["base_dose"]) == base]
        lost = [line for line in sorted(own, key=lambda x: abs(x["multiplier"])) if line["total_p"] <= -LOSS]
        if any(not line["multiplier"] for line in lost):
            yield next(line for line in lost if not line["multiplier"])
            continue
        for sign in (-1, 1):
            yield from [line for line in lost if line["multiplier"] * sign > 0][:1]


def _change(line: dict[str, Any]) -> Span:
    return cell_span(line, "total_p", words.signed)


def _name(line: dict[str, Any], chosen: Headline) -> str:
    """`CAA +1`, `lora_sft_positive`, `CAA +1 on lora_sft_positive`."""
    base = words.named(line["base"], line["base_dose"])
    if not line["multiplier"]:
        return base
    vector = f"{words.vector_name(chosen.vector)} {words.dose(line['multiplier'])}"
    return vector if base == "none" else f"{vector} on {base}"
