"""report.html: one page that needs nothing else, opened from a file. All text is escaped; no request leaves it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup, escape

from caa_bench.report import words
from caa_bench.report.facts import facts, repeat
from caa_bench.report.leads import Leads, RunLeads
from caa_bench.report.sections import Column, Line, Section, Table, sections
from caa_bench.report.sentence import card

if TYPE_CHECKING:
    from caa_bench.report.model import Report
    from caa_bench.storage.drawing import Inline

GRAVE = ("missing", "severe")
"""Severities that stand above the answer."""
PLACES = ("base", "arm", "vector")
"""Columns of names, which the page shows as a reader calls them."""


def render_page(report: Report, drawn: Mapping[str, Sequence[Inline]] | None = None) -> str:
    """The whole page.

    Args:
        drawn: the figures of each section by its name, as `drawing.save_drawings` leaves them; none where not given.
    """
    leads, every = Leads(report), drawn or {}
    shown = [part for section in sections() if (part := _part(section, report, every, leads)) is not None]
    beside = [chart for part in shown for chart in part["charts"] if chart["place"]]
    return page(
        title=f"{report.record.behavior.title} on {report.record.model_name}",
        heading=report.record.behavior.title,
        small=f"matching means: {report.record.behavior.matching}",
        facts=facts(report),
        card=card(report),
        grave=[notice for notice in report.notices if notice.severity in GRAVE],
        hero=next((chart for chart in beside if chart["place"] == "hero"), None),
        side=next((chart for chart in beside if chart["place"] == "side"), None),
        notices=report.notices,
        parts=shown,
        repeat=repeat(report),
    )


def page(**shown: Any) -> str:
    """The template with what it shows; what is not given is left out. Its policy names its own style and script."""
    empty = dict.fromkeys(("small", "card", "hero", "side", "grave", "repeat", "answers", "notices"), None)
    places = {"repeat", *(part["name"] for part in shown.get("parts", ()))}
    made = environment().get_template("page.html.jinja").render(
        **{**empty, "facts": [], "parts": [], "places": places, "script": Markup(_script()), **shown}  # noqa: S704 - our own file
    )  # fmt: skip
    for tag in ("style", "script"):  # text of others is escaped, so that the first of each is the page's own
        own = made.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
        made = made.replace(f"{tag}-src 'self'", f"{tag}-src 'sha256-{_hash(own)}'", 1)
    return made


@cache
def _script() -> str:
    """viewer.js, which shows the items, and page.js, which sorts, isolates and reads out charts."""
    return "".join((Path(__file__).parent / f"{name}.js").read_text(encoding="utf-8") for name in ("viewer", "page"))


def charts(drawn: Sequence[Inline]) -> list[dict[str, Any]]:
    """The drawings of a section for the template: those of one place that differ in what they show are one chart."""
    found: dict[tuple[str, str], list[Inline]] = {}
    for one in drawn:
        found.setdefault((one.place, one.name.removesuffix("_log_odds")), []).append(one)
    return [
        {
            "name": name,
            "place": place,
            "views": [{"shows": x.shows, "caption": x.caption, "svg": Markup(x.svg)} for x in own],  # noqa: S704 - ours
        }
        for (place, name), own in found.items()
    ]


@cache
def environment() -> jinja2.Environment:
    """The templates beside this file, everything escaped, and a name that is not there is an error."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"typeset": typeset, "breakable": breakable, "cell": cell}
    return made


def typeset(text: object) -> str:
    """A real minus sign before digits, and a real arrow."""
    return re.sub(r"(?<![\w.-])-(?=\.?\d)", "−", str(text).replace("->", "→"))


def breakable(text: object) -> Markup:
    """A name that may break after its underscores where the paper is narrow."""
    return Markup("_<wbr>").join(str(piece) for piece in typeset(text).split("_"))


def cell(text: str) -> Markup:
    """A number, with its interval set off and n/a in grey."""
    point, opened, rest = typeset(text).partition(" [")
    if point == words.NA:
        return Markup('<span class="na">n/a</span>')
    return escape(point) + (Markup(' <span class="ci">[{}</span>').format(rest) if opened else "")


def shown_table(table: Table, leads: Leads | RunLeads) -> dict[str, Any]:
    """A table for the template: heads and rows as text, and for each row its key and where it leads."""
    heads = [
        {
            "text": column.head,
            "definition": column.meaning,
            "number": column.is_number,
            "wide": column.wide,
            "source": f"{column.file or table.file}.{column.name}" if column.is_number and table.file else "",
        }
        for column in table.columns
    ]
    rows = [
        {
            "key": table.key_of(line) if table.file else "",
            "kind": line.get("kind", ""),
            "lead": leads.row(table, line),
            "cells": [_shown(column, line) | {"lead": leads.number(table, column, line)} for column in table.columns],
            "flag": line[table.flag] if table.flag else "",
        }
        for line in table.lines
    ]
    return {"caption": table.caption, "heads": heads, "rows": rows, "folded": table.folded, "flag": bool(table.flag),
            "heat": False}  # fmt: skip


def _hash(text: str) -> str:
    """What the page's policy names its own style and script by: nothing else may run."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _shown(column: Column, line: Line) -> dict[str, Any]:
    """A cell: its text, what its words mean, whether it depends on the clock, and its look."""
    text = column.shown(line).strip()
    text = words.human(text) if column.name in PLACES else text
    return {
        "text": text,
        "meaning": words.meaning(text) if column.name in ("verdict_words", "verdict_text") else "",
        "timed": column.timing and any(letter.isdigit() for letter in text),
        "look": line.get(f"{column.name}_look", ""),
    }


def _part(
    section: Section, report: Report, drawn: Mapping[str, Sequence[Inline]], leads: Leads
) -> dict[str, Any] | None:
    """A section for the template; None where it has nothing to show."""
    tables, data = section.tables_of(report), section.data(report)
    if not tables and not data:
        return None
    then, command = section.steps(report)
    return {
        "name": section.name, "title": section.heading(report), "note": section.note, "then": then, "command": command,
        "finding": section.summary(report).rstrip("."), "charts": charts(drawn.get(section.name, ())),
        "data": Markup(data),  # noqa: S704 - JSON without "<"
        "tables": [shown_table(table, leads) for table in tables],
        "files": _files(tables),
        "open": False,
    }  # fmt: skip


def _files(tables: Sequence[Table]) -> list[str]:
    """The files beside the page that hold the numbers of a section."""
    named = [f"{name}.csv" for table in tables for name in (table.file, *(column.file for column in table.columns))]
    named = [table.source for table in tables if table.source] or named
    return [name for name in dict.fromkeys(named) if name not in (".csv", "rows.csv")]
