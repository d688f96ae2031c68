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

from caa_bench.config.recipe_yaml import dump
from caa_bench.report import words
from caa_bench.report.leads import Leads, RunLeads
from caa_bench.report.sections import Column, Line, Section, Table, sections
from caa_bench.report.sections.measures import served
from caa_bench.report.sentence import card
from caa_bench.runs.tuning_record import tuning_lines

if TYPE_CHECKING:
    from caa_bench.report.model import Report
    from caa_bench.runs.record import RunRecord
    from caa_bench.storage.drawing import Inline

GRAVE = ("missing", "severe")
"""Severities that stand above the answer."""
PLACES = ("base", "arm", "vector")
"""Columns of names, which the page shows as a reader calls them."""
COMMAND = "caa-bench compare --recipe recipe.yaml"
REPORT_COMMAND = "caa-bench report ."
Fact = tuple[str, str, str]
"""What stands at the top: its name, its value, and the section that it leads to."""


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
    """What shows the items, sorts, isolates and reads out charts."""
    return (Path(__file__).parent / "page.js").read_text(encoding="utf-8")


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


def recipe_yaml(report: Report) -> str:
    """The run's exact recipe, every default written out; `caa-bench compare --recipe recipe.yaml` repeats the run."""
    values: dict[str, Any] = {}
    for key, value in report.record.settings.items():
        if value == {}:  # a section without keys
            continue
        *outer, name = key.split(".")
        here = values
        for part in outer:
            here = here.setdefault(part, {})
        here[name] = value
    return f"# {COMMAND}\n{dump(values)}"


def facts(report: Report) -> list[Fact]:
    """n, seeds and what else stands at the top, each with the section that it leads to."""
    record, chosen, (items, clusters) = report.record, report.headline, report.asked
    counted = f"{items} items" + ("" if clusters == items else f" in {clusters} clusters")
    seeds = {"seed": record.seed} | {key: value for key, value in record.settings.items() if key.endswith(".seed")}
    same = len(set(seeds.values())) == 1
    found_in = "tuning" if tuning_lines(record.tuning) else "layers" if len(chosen.layers) > 1 else "repeat"
    seeded = str(record.seed) if same else ", ".join(f"{name.removesuffix('.seed')} {x}" for name, x in seeds.items())
    return [
        ("model", record.model_name, "repeat"),
        ("split", record.split, "repeat"),
        ("n", counted if items else "no A/B test", "samples"),
        *([("orders", "given only", "repeat")] if record.protocol == "caa" else []),
        *([("layer", words.count(chosen.layer), found_in)] if chosen.layer is not None else []),
        *([("fits", str(record.fits), "fits")] if record.fits > 1 else []),
        ("seed", seeded, "repeat"),
        *_served(report),
        *([("status", record.status, "")] if record.status != "success" else []),
    ]


def _served(report: Report) -> list[Fact]:
    """How many answers in words a server generated, where it did."""
    there, every = (0, 0) if report.answers is None else served(report.answers)
    return [("answers by a server", f"{there:,} of {every:,}", "answers")] if there else []


def repeat(report: Report) -> dict[str, Any]:
    """How to run it again, and on what it ran."""
    record = report.record
    tries = report.headline.choices[0].tries if report.headline.choices else 0
    tuned = (
        f"{tries} doses and layers were tried on these items."
        if tries
        else "No dose or layer was tuned on these items."
    )
    opened = (
        f" The test split was evaluated {record.test_opened} time{'s' if record.test_opened != 1 else ''} by this run"
        + (f", which was opening {record.test_opening} of it with this model." if record.test_opening > 1 else ".")
    )
    return {
        "said": tuned + (opened if record.split == "test" else ""),
        "command": COMMAND,
        "report_command": REPORT_COMMAND,
        "recipe": recipe_yaml(report),
        "versions": [(name, version or words.NA) for name, version in record.versions.items()],
        "model": list(_model(record)),
    }


def _model(record: RunRecord) -> list[tuple[str, str]]:
    facts = record.model_facts
    plain = [(name, words.NA if x is None else str(x)) for name, x in facts.items() if name != "files"]
    layers = [(f"layers: {name}", str(value)) for name, value in record.layers.items()]
    files = [(name, str(checksum)[:16]) for name, checksum in facts.get("files", {}).items()]
    return [("name", record.model), *layers, *plain, *files, ("recipe key", record.recipe_key[:16])]
