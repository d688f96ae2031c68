"""Many runs beside each other: one page, comparison.html, and what the terminal prints last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from caa_bench.analysis.stacking import one_family
from caa_bench.analysis.verdict import OPPOSITE
from caa_bench.errors import UserError
from caa_bench.report import words
from caa_bench.report.arms import directed, keeps, moves
from caa_bench.report.figures import GREY, look_of
from caa_bench.report.leads import RunLeads, page_of
from caa_bench.report.page import charts, page, shown_table
from caa_bench.report.sections import Column, Line, Table, sections
from caa_bench.report.sentence import kind_of, plain, sentence
from caa_bench.report.text import columns, folded, safe, table_text, width
from caa_bench.storage.drawing import Drawing, panels, save_drawings
from caa_bench.storage.files import write_atomic

if TYPE_CHECKING:
    from caa_bench.report.model import Report
    from caa_bench.storage.drawing import Inline


def write_comparison(reports: Sequence[Report], path: Path) -> None:
    """Write the page, and beside it `<name>_figures/` with the forest plot and the CSV it is drawn from.

    Raises:
        UserError: the name is no HTML file's, or the place cannot be written.
    """
    if path.suffix != ".html":
        raise UserError(f"{path}: the page is HTML; give a name that ends in .html")
    names, title = run_names(joined(reports)), f"{len(reports)} runs compared"
    answers = [
        {
            "link": page_of(report, beside=path.parent),
            "name": name,
            "answer": plain(sentence(report).clauses[0]),
            "grave": report.grave,
        }
        for name, report in names.items()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    figures = path.with_name(f"{path.stem}_figures")
    lines = _effects(names)
    if len(lines):
        figures.mkdir(exist_ok=True)
    drawn = save_drawings(lambda: forest(lines), figures)
    leads = RunLeads(names, beside=path.parent)
    parts = [
        _part("stacks", "Does the vector still add?", _verdicts(names), leads, heat=True, note="Verdict and retention "
              "with its 95% interval, at the dose that pushes as the base does; the primary lines of all runs are one "
              "false-discovery family, so that a verdict may be more careful than on its run's own page. The stronger "
              "the color, the more of the vector's effect alone is kept. Columns sort."),
        _part("forest", "Effects, run by run", None, leads, note="", drawn=drawn),
        _part("arms", "Arms and stacks", _arms(names), leads, 
              note="At each run's leading layer and doses. Columns sort."),
    ]  # fmt: skip
    same = [(name, value, "") for name, value in _same(reports).items() if value]
    shown = {"answers": answers, "facts": same, "parts": [part for part in parts if part]}
    write_atomic(path, page(title=title, heading=title, **shown))


def forest(lines: pd.DataFrame) -> Iterator[Drawing]:
    """The vector's effect alone and on top of each base, a row each, run by run; nothing without a line.

    Args:
        lines: `run`, `base`, `base_dose`, `on`, `effect` with its ends (log-odds, + in the direction of the dose), `n`.
    """
    if lines.empty:
        return
    figure, (place,) = panels(1, 1, size=(8.4, 0.19 * len(lines) + 0.7))
    titles = {}
    for y, line in enumerate(lines.to_dict("records")):
        look = look_of(line["base"], line["base_dose"])
        place.plot([line["effect_low"], line["effect_high"]], [y, y], color=look["color"], linewidth=1)
        mark = {"marker": look["marker"], "color": look["color"], "markersize": 4, "linestyle": ""}
        place.plot([line["effect"]], [y], gid=f"row-{y}", **mark)
        titles[f"row-{y}"] = f"{line['run']}, {line['on']}: {words.interval(line, 'effect')}, n {line['n']}"
    place.axvline(0, color=GREY, linewidth=0.6)
    first = ~lines["run"].duplicated()
    heads = [f"{run}   {on}" if new else on for run, on, new in zip(lines["run"], lines["on"], first, strict=True)]
    place.set_yticks(range(len(lines)), heads)
    place.set_ylim(len(lines) - 0.4, -0.6)
    place.set_xlabel("effect of the vector in the direction of its dose, log-odds")
    caption = "The vector alone and on top of each base, 95% intervals"
    yield Drawing(name="forest", figure=figure, data=lines, caption=caption, titles=titles)


def render_summary(reports: Sequence[Report]) -> str:
    """Two tables, a line a run: the vector alone, then its verdict on top of each base in the base's direction."""
    if not reports:
        return "no behavior was run"
    names = run_names(joined(reports))
    models = ", ".join(dict.fromkeys(report.record.model for report in reports))
    heads = ["run", "layer", "dose -", "alone", "dose +", "up most", "down most", "n", "warnings"]
    alone = folded(heads, [[name, *_single_run_line(report)] for name, report in names.items()])
    parts = [f"{len(reports)} run{'s' * (len(reports) > 1)} on {models}", "The vector alone: p(matching), and the "
             f"strongest arm\n{alone}"]  # fmt: skip
    verdicts = _verdicts(names, short=True)
    if len(verdicts.columns) > 1 and len(verdicts.frame):
        wide = table_text(verdicts)
        if max(map(len, wide.split("\n"))) > width():
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
    """Each run by its behavior and what else differs: model, recipe, seed; by its folder where that is not enough."""
    same = _same(reports)
    plain_names = [
        " · ".join(value for name, value in _identity(report).items() if name == "behavior" or not same[name])
        for report in reports
    ]
    found: dict[str, Report] = {}
    for name, report in zip(plain_names, reports, strict=True):
        alike = [x for other, x in zip(plain_names, reports, strict=True) if other == name]
        found[name if len(alike) == 1 else f"{name} ({_told_apart(report, alike)})"] = report
    return found


def _identity(report: Report) -> dict[str, str]:
    """What tells runs apart; the recipe is the folder that a run's folder lies in."""
    record = report.record
    recipe = report.folder.resolve().parent.name
    return {"behavior": record.behavior.id, "model": record.model, "recipe": recipe, "seed": f"seed {record.seed}"}


def _same(reports: Sequence[Report]) -> dict[str, str]:
    """What all of the runs share; "" where they differ."""
    every = [_identity(report) for report in reports]
    return {
        name: value.removeprefix("seed ") if all(one[name] == value for one in every) else ""
        for name, value in every[0].items()
    }


def _told_apart(report: Report, alike: Sequence[Report]) -> str:
    """The shortest end of its path that none of the others has."""
    own = report.folder.resolve().parts
    others = [x.folder.resolve().parts for x in alike if x is not report]
    for count in range(1, len(own) + 1):
        if all(other[-count:] != own[-count:] for other in others):
            return "/".join(own[-count:])
    return str(report.folder)


def _part(
    name: str,
    title: str,
    table: Table | None,
    leads: RunLeads,
    *,
    note: str,
    heat: bool = False,
    drawn: Sequence[Inline] = (),
) -> dict[str, Any] | None:
    """A section of the page, open; its table sorts."""
    if not drawn and (table is None or table.frame.empty):
        return None
    shown = [] if table is None else [shown_table(table, leads) | {"folded": not heat, "heat": heat}]
    return {"name": name, "title": title, "note": note, "finding": "", "charts": charts(drawn), "tables": shown,
            "then": "", "command": "", "data": "", "files": [], "open": True}  # fmt: skip


def _effects(names: Mapping[str, Report]) -> pd.DataFrame:
    """The lines of `forest`: of each run the vector alone at its positive dose, then on top of each base."""
    lines = []
    for name, report in names.items():
        alone = report.arms[report.arms["kind"] == "vector"].sort_values("multiplier").to_dict("records")[-1:]
        for line in [*alone, *(directed(report.arms) if alone else [])]:
            sign = 1 if line["multiplier"] > 0 else -1
            ends = [line[f"shift{end}"] * sign for end in ("", "_low", "_high")]
            base = words.human(words.named(line["base"], line["base_dose"]))
            on = words.on_top(report.headline.vector, line["multiplier"])
            lines.append(
                {"run": name, "base": line["base"], "base_dose": line["base_dose"], "on": f"{on} on {base}",
                 "cell": line["cell"], "effect": ends[0], "effect_low": min(ends[1:]), "effect_high": max(ends[1:]),
                 "n": line["n"]}
            )  # fmt: skip
    return pd.DataFrame(lines)


def _verdicts(names: Mapping[str, Report], *, short: bool = False) -> Table:
    """A line a run, a column a base: the verdict, and the share that is kept; `<base>_look` colors the page's cell."""
    lines, bases = [], dict[str, None]()
    for name, report in names.items():
        found = {words.named(x["base"], x["base_dose"]): x for x in directed(report.arms)}
        bases |= dict.fromkeys(found)
        looks = {f"{base}_look": _look(x) for base, x in found.items()}
        looks |= {f"{base}_cell": x["cell"] for base, x in found.items()}
        lines.append({"run": name} | {base: _verdict(x, short=short) for base, x in found.items()} | looks)
    frame = pd.DataFrame(lines)
    frame = frame.fillna(dict.fromkeys(bases, words.NA)).fillna("") if bases else frame.iloc[:0]
    heads = (Column(name=name, label=_short(name) if short else words.human(name), wide=not short) for name in bases)
    return Table(frame=frame, columns=(Column(name="run"), *heads))


def _look(line: Line) -> str:
    """Classes of a cell of the heat map: the verdict's color, stronger the more is kept."""
    kept = f" kept-{int(min(max(line['retention'], 0.0), 0.99) * 5)}" if keeps(line) else ""
    return f"kind-{kind_of(dict(line)).replace(' ', '-')}{kept}"


def _verdict(line: Line, *, short: bool) -> str:
    if not short:
        return (
            f"{line['verdict_words']}, {words.interval(line, 'retention')}"
            if keeps(line)
            else str(line["verdict_words"])
        )
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


def _single_run_line(report: Report) -> list[str]:
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
