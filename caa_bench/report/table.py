"""The printed tables: the answer in a sentence, a row per arm and stack, levels by dose, warnings. 120 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from caa_bench.report import words
from caa_bench.report.answers import section
from caa_bench.report.arms import Row, rows
from caa_bench.report.capability import capability, capability_text
from caa_bench.report.columns import WIDTH, columns, folded, level_text
from caa_bench.report.costs import costs
from caa_bench.report.details import every_level, every_stack
from caa_bench.report.doses import dose_text, tuning_text
from caa_bench.report.equal_loss import equal_loss_text
from caa_bench.report.fits import count
from caa_bench.report.headline import Headline, headline, items_asked, measured, placebos
from caa_bench.report.layers import LayerLine, layer_lines
from caa_bench.report.matched import matched_text
from caa_bench.report.metrics import metrics_text
from caa_bench.report.quotes import Span
from caa_bench.report.sentence import row_name, sentence
from caa_bench.report.vectors import vector_text
from caa_bench.report.words import number as number
from caa_bench.report.words import probability as probability
from caa_bench.storage.files import terminal_safe

if TYPE_CHECKING:
    import pandas as pd

    from caa_bench.report import Report

WORST = 3


def render(report: Report, *, detail: bool = False, timings: bool = True) -> str:
    """Plain text. With `detail`, every vector, layer, dose and warning."""
    chosen = headline(report)
    arms = rows(report, chosen)
    cost = capability(report, chosen)
    answer = sentence(report, chosen, rows=arms, costs=costs(report)).lines(timings=timings)
    swept = layer_lines(report, chosen) if len(chosen.layers) > 1 else []
    parts = [
        "\n".join(line for clause in answer for line in textwrap.wrap(clause, WIDTH, subsequent_indent="    ")),
        textwrap.fill(head(report, chosen), WIDTH),
        tuning_text(report),
        "" if not arms or (swept and len(chosen.bases) == 1) else _arms(arms, chosen),
        _layers(swept, chosen),
        matched_text(report, chosen),
        dose_text(report, chosen),
        _levels(report, chosen),
        capability_text(cost, chosen) if cost else "",
        metrics_text(report, chosen, detail=detail),
        section(report, chosen),
        vector_text(report, chosen),
        _placebos(measured(report.shifts)),
        *([equal_loss_text(report, chosen), every_level(report), every_stack(report)] if detail else []),
        _notices(report, all_of_them=detail),
    ]
    text = "\n\n".join(part for part in parts if part)
    return "\n".join(terminal_safe(line).rstrip() for line in text.split("\n"))


def head(report: Report, chosen: Headline) -> str:
    """What was run, on what, with how many items."""
    behavior, recipe = report.manifest["facts"]["behavior"], report.manifest["recipe"]
    items, clusters = items_asked(report)
    orders = "given option order only" if recipe["protocol"] == "caa" else "both option orders"
    layer = "" if chosen.layer is None else f", layer {words.count(chosen.layer)} ({chosen.layer_reason})"
    grouped = "" if clusters == items else f" in {clusters} clusters"
    fits = f", means of {count(report)} fits" if count(report) > 1 else ""
    tested = f"n {items} items{grouped}, {orders}" if items else "no A/B test"
    asked = f"{recipe['split']} split, {tested}"
    return (
        f"{behavior['title']} on {recipe['model']}{layer}: {asked}, seed {recipe['seed']}{fits}. "
        f"Matching means: {str(behavior['matching']).rstrip('.')}."
    )


def _arms(arms: Sequence[Row], chosen: Headline) -> str:
    costly, spoken = (any(getattr(row, name) is not None for row in arms) for name in ("capability", "in_words"))
    lines = []
    for row in arms:
        indent = "  + " if row.kind in ("vector", "stack") else ""
        level = str(row.after) if row.before is None else f"{row.before} -> {row.after}"
        lines.append(
            [
                indent + row_name(row, chosen),
                level,
                _or_blank(row.effect),
                _or_blank(row.retention),
                _or_blank(row.room),
                str(row.option_mass),
                *([_or_blank(row.in_words and row.in_words.point)] if spoken else []),
                *([_or_blank(row.capability and row.capability.point)] if costly else []),
                row.told,
            ]
        )
    heads = ["arm or stack", "p(matching)", "shift in log-odds", "retention", "room", "mass"]
    heads += [*(["words"] if spoken else []), *(["cap."] if costly else []), "verdict"]
    title = "Effects with 95% intervals; shift: + is towards matching"
    title += "; words: the same of the score of answers in words, 0-1" if spoken else ""
    title += "; cap.: change of capability from the unchanged model" if costly else ""
    return f"{textwrap.fill(title, WIDTH)}\n{columns(heads, lines, wrap_last=True)}"


def _or_blank(shown: object) -> str:
    return "" if shown is None else str(shown)


def _layers(lines: Sequence[LayerLine], chosen: Headline) -> str:
    if not lines:
        return ""
    name = words.vector_name(chosen.vector)
    table = [
        [line.mark + words.count(line.layer), *map(_span_text, line.shifts), *map(str, line.masses)] for line in lines
    ]
    heads = [
        "layer",
        *(f"{name} {words.dose(d)}" for d in chosen.doses),
        *(f"mass {words.dose(d)}" for d in chosen.doses),
    ]
    title = f"{name} alone by layer: shift in log-odds, 95% interval; * leads ({chosen.layer_reason})"
    return f"{title}\n{columns(heads, table)}"


def _span_text(span: Span | None) -> str:
    return words.NA if span is None else str(span)


def _levels(report: Report, chosen: Headline) -> str:
    """p(matching) with its interval, one line a base, one column a multiplier, at the layer that leads."""
    cells = measured(report.cells)
    steered = cells[(cells["vector"] == chosen.vector) | (cells["multiplier"] == 0)]
    here = steered[(steered["layer"] == chosen.layer) | steered["layer"].isna()]
    multipliers = sorted(here["multiplier"].unique())
    if len(multipliers) < 2:
        return ""
    table = []
    for base, base_dose in chosen.bases:
        at = here[(here["base"] == base) & (here["base_dose"] == base_dose)].set_index("multiplier")
        table.append(
            [words.named(base, base_dose), *(level_text(at.loc[m]) if m in at.index else "" for m in multipliers)]
        )
    heads = ["base", *(words.on_top(chosen.vector, m) for m in multipliers)]
    return "p(matching) at every dose, 95% interval\n" + folded(heads, table)


def _placebos(shifts: pd.DataFrame) -> str:
    """The largest move of p that each placebo makes on any base, with the cell it was seen in."""
    lines = []
    for name in placebos():
        own = shifts[(shifts["vector"] == name) & shifts["shift_p"].notna()]
        if len(own):
            worst = own.loc[own["shift_p"].abs().idxmax()]
            dose = words.dose(worst["multiplier"])
            lines.append(f"{name} {worst['shift_p']:+.3f} (on {worst['base']} at {dose}, n {worst['n']})")
    if not lines:
        return ""
    text = "Placebo vectors of equal norm, largest move of p(matching): " + ", ".join(lines)
    return textwrap.fill(text, WIDTH, subsequent_indent="  ")


def _notices(report: Report, *, all_of_them: bool) -> str:
    found = report.notices
    shown = found if all_of_them else found[:WORST]
    lines = [line for notice in shown for line in _notice(f"{notice.severity}: {notice.text}")]
    rest = f"; the worst {WORST} (all in table.txt)" if len(shown) < len(found) else ""
    return "\n".join([f"Warnings: {len(found)}{rest}", *lines]) if found else "Warnings: none"


def _notice(text: str) -> Iterator[str]:
    yield from textwrap.wrap(text, WIDTH - 2, initial_indent="  ", subsequent_indent="    ")
