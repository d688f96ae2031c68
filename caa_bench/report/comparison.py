"""One page for many runs: what each says, and every arm and stack of all of them in one table that sorts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from caa_bench.errors import UserError
from caa_bench.report.arms import Row, rows
from caa_bench.report.costs import costs
from caa_bench.report.headline import headline, items_asked
from caa_bench.report.page import environment, template_hash
from caa_bench.report.sentence import Clause, leading_stacks, row_name, sentence
from caa_bench.storage.files import write_atomic

if TYPE_CHECKING:
    from caa_bench.report import Report


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as the page shows it.

    Args:
        link: its own report, relative to the page.
        answer: the first clause of its sentence.
        grave: how many of its warnings are severe.
        n: items of its largest cell.
        arms: dicts of `row` and its `name`.
        stacks: on each base the dose that pushes the same way, by the base's name.
    """

    link: str
    name: str
    behavior: str
    model: str
    answer: Clause
    grave: int
    n: int
    arms: list[dict[str, Row | str]]
    stacks: dict[str, Row]


def write_comparison(reports: Sequence[Report], path: Path) -> None:
    """Write the page.

    Raises:
        UserError: the name is no HTML file's, or the place cannot be written.
    """
    if path.suffix != ".html":
        raise UserError(f"{path}: the page is HTML; give a name that ends in .html")
    runs = [_run(report, beside=path.parent) for report in reports]
    page = (
        environment()
        .get_template("comparison.html.jinja")
        .render(
            runs=runs,
            bases=list(dict.fromkeys(base for run in runs for base in run.stacks)),
            spoken=any(report.answers is not None for report in reports),
            style_hash=template_hash("style.css.jinja"),
            script_hash=template_hash("script.js.jinja"),
        )
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, page)


def _run(report: Report, *, beside: Path) -> Run:
    chosen = headline(report)
    arms = rows(report, chosen)
    behavior, model = str(report.manifest["facts"]["behavior"]["id"]), str(report.manifest["recipe"]["model"])
    place = os.path.relpath(report.folder / "report.html", beside)
    return Run(
        link=quote(Path(place).as_posix()),
        name=f"{behavior} on {model}",
        behavior=behavior,
        model=model,
        answer=sentence(report, chosen, rows=arms, costs=costs(report)).clauses[0],
        grave=sum(notice.severity in ("missing", "severe") for notice in report.notices),
        n=items_asked(report)[0],
        arms=[{"row": row, "name": row_name(row, chosen)} for row in arms],
        stacks={row.name: row for row in leading_stacks(arms)},
    )
