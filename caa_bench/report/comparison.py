"""Many runs beside each other: one page, comparison.html, and what the terminal prints last."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pandas as pd

from caa_bench.analysis.stacking import one_family
from caa_bench.analysis.verdict import OPPOSITE
from caa_bench.errors import UserError
from caa_bench.report import words
from caa_bench.report.arms import directed, keeps, moves
from caa_bench.report.page import page, shown_table
from caa_bench.report.sections import Column, Line, Table, sections
from caa_bench.report.sentence import plain, sentence
from caa_bench.report.text import WIDTH, columns, safe, table_text
from caa_bench.storage.files import write_atomic

if TYPE_CHECKING:
    from caa_bench.report.model import Report


def write_comparison(reports: Sequence[Report], path: Path) -> None:
    """Write the page.

    Raises:
        UserError: the name is no HTML file's, or the place cannot be written.
    """
    if path.suffix != ".html":
        raise UserError(f"{path}: the page is HTML; give a name that ends in .html")
    names, title = run_names(joined(reports)), f"{len(reports)} runs compared"
    answers = [
        {
            "link": quote(Path(os.path.relpath(report.folder / "report.html", path.parent)).as_posix()),
            "name": name,
            "answer": plain(sentence(report).clauses[0]),
            "grave": report.grave,
        }
        for name, report in names.items()
    ]
    parts = [
        _part("stacks", "Does the vector still add?", _verdicts(names), "Verdict and retention with its 95% interval, "
              "at the dose that pushes as the base does; the primary lines of all runs are one false-discovery family, "
              "so that a verdict may be more careful than on its run's own page. Columns sort."),
        _part("arms", "Arms and stacks", _arms(names), "At each run's leading layer and doses. Columns sort."),
    ]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, page(title=title, heading=title, answers=answers, parts=[part for part in parts if part]))


def render_summary(reports: Sequence[Report]) -> str:
    """Two tables, a line a run: the vector alone, then its verdict on top of each base in the base's direction."""
    if not reports:
        return "no behavior was run"
    names = run_names(joined(reports))
    models = ", ".join(dict.fromkeys(report.record.model for report in reports))
    heads = ["run", "layer", "dose -", "alone", "dose +", "up most", "down most", "n", "warnings"]
    alone = columns(heads, [[name, *_alone(report)] for name, report in names.items()])
    parts = [f"{len(reports)} run{'s' * (len(reports) > 1)} on {models}", "The vector alone: p(matching), and the "
             f"strongest arm\n{alone}"]  # fmt: skip
    verdicts = _verdicts(names, short=True)
    if len(verdicts.columns) > 1:
        wide = table_text(verdicts)
        if max(map(len, wide.split("\n"))) > WIDTH:
            bases = verdicts.columns[1:]
            long = [[line["run"], base.head, line[base.name]] for line in verdicts.lines for base in bases]
            wide = columns(["run", "base", "verdict"], long)
        parts.append(f"Does it still add? Verdict and retention in the base's own direction\n{wide}")
    return safe("\n\n".join(parts))


def joined(reports: Sequence[Report]) -> list[Report]:
    """The runs with q-values and verdicts of one false-discovery family over all of them."""
    placebos = {name: original for report in reports for name, original in report.record.placebos.items()}
    tables = one_family([report.stacking for report in reports], placebos=placebos, shown=words.display)
    return [replace(report, stacking=table) for report, table in zip(reports, tables, strict=True)]


def run_names(reports: Sequence[Report]) -> dict[str, Report]:
    """Each run by its behavior and, where there are several, its model; by its folder where neither is enough."""
    several = len({report.record.model for report in reports}) > 1
    plain_names = [x.record.behavior.id + f" on {x.record.model}" * several for x in reports]
    found: dict[str, Report] = {}
    for name, report in zip(plain_names, reports, strict=True):
        alike = [x for other, x in zip(plain_names, reports, strict=True) if other == name]
        found[name if len(alike) == 1 else f"{name} ({_told_apart(report, alike)})"] = report
    return found


def _told_apart(report: Report, alike: Sequence[Report]) -> str:
    """The shortest end of its path that none of the others has."""
    own = report.folder.resolve().parts
    others = [x.folder.resolve().parts for x in alike if x is not report]
    for count in range(1, len(own) + 1):
        if all(other[-count:] != own[-count:] for other in others):
            return "/".join(own[-count:])
    return str(report.folder)


def _part(name: str, title: str, table: Table, note: str) -> dict[str, Any] | None:
    """A section of the page, its table open to sorting."""
    if table.frame.empty:
        return None
    shown = shown_table(table) | {"folded": True}
    return {"name": name, "title": title, "note": note, "finding": "", "figures": [], "tables": [shown], "then": "",
            "command": "", "open": True}  # fmt: skip


def _verdicts(names: Mapping[str, Report], *, short: bool = False) -> Table:
    """A line a run, a column a base: the verdict, and the share that is kept."""
    lines = []
    for name, report in names.items():
        found = {words.named(x["base"], x["base_dose"]): _verdict(x, short=short) for x in directed(report.arms)}
        lines.append({"run": name} | found)
    frame = pd.DataFrame(lines).fillna(words.NA)
    frame = frame if len(frame.columns) > 1 else frame.iloc[:0]
    heads = (Column(name=name, label=_short(name) if short else name, wide=not short) for name in frame.columns[1:])
    return Table(frame=frame, columns=(Column(name="run"), *heads))


def _verdict(line: Line, *, short: bool) -> str:
    if not short:
        return f"{line['told']}, {words.interval(line, 'retention')}" if keeps(line) else str(line["told"])
    told = f"{line['verdict']} {words.number(line['retention'])}" if keeps(line) else str(line["verdict"])
    tags = str(line["tags"]).split(";")
    told = "no room" if "no room" in tags else told
    return f"{told}; {OPPOSITE}" if OPPOSITE in tags else told


def _arms(names: Mapping[str, Report]) -> Table:
    """The first table of every run, one below the other."""
    arms = next(section for section in sections() if section.name == "arms")
    tables = {name: table for name, report in names.items() for table in arms.tables_of(report)}
    if not tables:
        return Table(frame=pd.DataFrame(), columns=())
    widest = max(tables.values(), key=lambda table: len(table.columns))
    frame = pd.concat(
        [table.frame.assign(run=name, key=f"{name}|") for name, table in tables.items()], ignore_index=True
    )
    frame["key"] += frame["cell"]
    base = Column(name="base", text=lambda line: words.named(line["base"], line["base_dose"]))
    caption = widest.caption.partition("; the largest shift")[0]  # that is of one run
    n = Column(name="n", form=words.count)
    columns = (Column(name="run"), base, *widest.columns[:-1], n, widest.columns[-1])
    return Table(frame=frame.drop(columns="kind").assign(kind=frame["kind"]), columns=columns, caption=caption,
                 file="arms", key=("key",))  # fmt: skip


def _alone(report: Report) -> list[str]:
    chosen, lines = report.headline, report.arms.to_dict("records")
    levels = {x["multiplier"]: words.probability(x["p_balanced"]) for x in lines if x["kind"] in ("none", "vector")}
    at = {(dose > 0) - (dose < 0): text for dose, text in levels.items()}
    layer = words.NA if chosen.layer is None else words.count(chosen.layer)
    grave = f" ({report.grave} severe)" if report.grave else ""
    strongest = [_most(lines, sign) for sign in (1, -1)]
    counts = [str(report.asked[0]), f"{len(report.notices)}{grave}"]
    return [layer, *(at.get(sign, words.NA) for sign in (-1, 0, 1)), *strongest, *counts]


def _most(lines: Sequence[Line], sign: int) -> str:
    """The arm that moves the behavior furthest in one direction, with where it ends; only what is told apart from 0."""
    moved = [x for x in lines if x["kind"] in ("base", "vector") and moves(x) and sign * x["shift"] > 0]
    if not moved:
        return "none"
    best = max(moved, key=lambda line: sign * line["shift"])
    name = _short(str(best["arm"])) if best["kind"] == "base" else f"vector {words.dose(best['multiplier'])}"
    return f"{name} {words.probability(best['p_balanced'])}"


def _short(name: str) -> str:
    """Long names in a narrow table: `prompt +`, `LoRA -`."""
    for long, short in (("+", " & "), ("system_prompt", "prompt"), ("lora_sft", "LoRA")):
        name = name.replace(long, short)
    return name.replace("_positive", " +").replace("_negative", " -")
