"""A report as plain text: the answer, what was run, every section's tables, the warnings. 120 columns, or fewer."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from caa_bench.report import words
from caa_bench.report.sections import Column, Section, Table, sections
from caa_bench.report.sentence import sentence
from caa_bench.storage.files import terminal_safe

if TYPE_CHECKING:
    from caa_bench.report.model import Report

MARGIN = 2
"""Sentences end so far before the edge."""
_WIDEST = ContextVar("columns", default=120)
WORST = 3
"""Warnings that are printed; all of them are in table.txt."""


@contextmanager
def columns_of(terminal: int) -> Iterator[None]:
    """Inside, text is made for a terminal of so many columns; 120 elsewhere, as in every file."""
    token = _WIDEST.set(terminal)
    try:
        yield
    finally:
        _WIDEST.reset(token)


def width() -> int:
    """Columns that a sentence may take."""
    return _WIDEST.get() - MARGIN


def render(report: Report, *, detail: bool = False, timings: bool = True) -> str:
    """Plain text. With `detail`, every vector, layer, dose and warning."""
    parts = [_answer_lines(report, timings), *_body(report, detail, timings), _notices(report, all_of_them=detail)]
    return safe("\n\n".join(part for part in parts if part))


def tables_text(report: Report, *, detail: bool = False) -> str:
    """What was run and every section's tables: `render` without the answer and the warnings."""
    return safe("\n\n".join(part for part in _body(report, detail, True) if part))


def closing_text(report: Report) -> str:
    """The answer and the worst warnings: what a run says last."""
    return safe(f"{_answer_lines(report, True)}\n\n{_notices(report, all_of_them=False)}")


def _answer_lines(report: Report, timings: bool) -> str:
    said = sentence(report).lines(timings=timings)
    return "\n".join(line for clause in said for line in textwrap.wrap(clause, width(), subsequent_indent="    "))


def _body(report: Report, detail: bool, timings: bool) -> list[str]:
    said = sentence(report).lines(timings=timings)
    shown = [_section(section, report, said=said, detail=detail) for section in sections()]
    return [textwrap.fill(head(report), width()), *shown]


def safe(text: str) -> str:
    """Text for a terminal: without control characters and blanks at the ends of lines."""
    return "\n".join(terminal_safe(line).rstrip() for line in text.split("\n"))


def head(report: Report) -> str:
    """What was run, on what, with how many items."""
    record, chosen, (items, clusters) = report.record, report.headline, report.asked
    orders = "given option order only" if record.protocol == "caa" else "both option orders"
    layer = "" if chosen.layer is None else f", layer {words.count(chosen.layer)} ({chosen.layer_reason})"
    grouped = "" if clusters == items else f" in {clusters} clusters"
    fits = f", means of {record.fits} fits" if record.fits > 1 else ""
    half = f", computed in {record.half}" if record.half else ""
    tested = f"n {items} items{grouped}, {orders}" if items else "no A/B test"
    return (
        f"{record.behavior.title} on {record.model_name}{layer}: {record.split} split, {tested}, seed {record.seed}"
        f"{fits}{half}. "
        f"Matching means: {record.behavior.matching.rstrip('.')}."
    )


def columns(head: Sequence[str], rows: Iterable[Sequence[str]], *, wrap_last: bool = False) -> str:
    """Aligned text columns, two blanks apart; with `wrap_last` the last one is broken to keep to the width."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    if wrap_last:
        rest = max(width() - sum(widths[:-1]) - 2 * len(widths), 16)
        lines = [broken for line in lines for broken in _broken(line, rest)]
        widths[-1] = min(widths[-1], rest)
    padded = ([text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("  " + "  ".join(line) for line in padded)


def folded(head: Sequence[str], rows: Iterable[Sequence[str]], *, names: int = 1) -> str:
    """`columns`, cut into as few tables below each other as keep to the width, the first `names` columns in each."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) + 2 for i in range(len(head))]
    fewest = len(_blocks(widths, names, most=len(head)))
    blocks = _blocks(widths, names, most=math.ceil((len(head) - names) / fewest))
    shown = [[[*line[:names], *(line[i] for i in block)] for line in lines] for block in blocks]
    texts = (columns(part[0], part[1:]) for part in shown)
    fits = _WIDEST.get()
    return "\n".join(
        text if max(map(len, text.split("\n"))) <= fits else columns(part[0], part[1:], wrap_last=True)
        for text, part in zip(texts, shown, strict=True)
    )


def table_text(table: Table) -> str:
    """A table's lines as columns, or with the values of `across` side by side, a block a number."""
    shown = [column for column in table.columns if column.brief]
    if table.across:
        return "\n".join(
            _pivot(table, column, several=True) for column in shown if column.is_number and column.name != "n"
        )
    heads, names = [column.head for column in shown], sum(not column.is_number for column in shown[:4])
    rows = [[column.shown(line) for column in shown] for line in table.lines]
    if table.flag:
        heads, rows = [*heads, ""], [[*row, line[table.flag]] for row, line in zip(rows, table.lines, strict=True)]
    if shown[-1].wide:
        text = columns(heads, rows, wrap_last=True)
        if max(map(len, text.split("\n"))) <= _WIDEST.get():
            return text
    return folded(heads, rows, names=max(names, 1))


def _section(section: Section, report: Report, *, said: Sequence[str], detail: bool) -> str:
    """Heading, finding, tables and next steps; "" where it shows nothing here."""
    tables = section.tables_of(report)
    shown = [table for table in tables if table.where == "always" or (detail and table.where == "detail")]
    finding = section.finding(report) if tables else ""
    finding = "" if finding.rstrip(".") in said else finding
    if not shown and not finding:
        return ""
    heading = section.heading(report)
    first = shown[0].caption if shown and not section.note else ""
    parts = [
        textwrap.fill(
            f"{heading}. {section.note}" if section.note else f"{heading}: {first}" if first else heading, width()
        )
    ]
    if not shown:
        parts = []
    for place, table in enumerate(shown):
        if table.caption and (place or section.note):
            parts.append(textwrap.fill(table.caption, width(), initial_indent="  ", subsequent_indent="    "))
        parts.append(table_text(table))
    then, command = section.steps(report)
    parts += [textwrap.fill(finding, width(), subsequent_indent="  ")] if finding else []
    return "\n".join([*parts, *([then, f"  {command}"] if command else [])])


def _pivot(table: Table, column: Column, *, several: bool) -> str:
    """One number, a line a name, the values of `across` side by side."""
    named = [one for one in table.columns if not one.is_number and one.name != table.across]
    values = sorted(table.frame[table.across].unique())
    at: dict[tuple[str, ...], dict[float, str]] = {}
    for line in table.lines:
        at.setdefault(tuple(one.shown(line) for one in named), {})[line[table.across]] = column.shown(line)
    heads = [*(one.head for one in named), *map(table.across_name, values)]
    text = folded(
        heads, [[*name, *(own.get(value, "") for value in values)] for name, own in at.items()], names=len(named)
    )
    numbers = [one for one in table.columns if one.is_number and one.brief and one.name != "n"]
    said = f"{column.head}: {column.definition}" if column.definition else column.head
    return text if column is numbers[0] or not several else f"  {said}\n{text}"


def _blocks(widths: Sequence[int], names: int, *, most: int) -> list[list[int]]:
    """Places of the columns behind the names, table by table."""
    blocks: list[list[int]] = [[]]
    for place in range(names, len(widths)):
        wide = sum(widths[:names]) + sum(widths[i] for i in (*blocks[-1], place)) > _WIDEST.get()
        if blocks[-1] and (wide or len(blocks[-1]) == most):
            blocks.append([])
        blocks[-1].append(place)
    return blocks


def _broken(line: list[str], width: int) -> Iterator[list[str]]:
    pieces = textwrap.wrap(line[-1], width) or [""]
    yield [*line[:-1], pieces[0]]
    for piece in pieces[1:]:
        yield [*("" for _ in line[:-1]), piece]


def _notices(report: Report, *, all_of_them: bool) -> str:
    found = report.notices
    shown = found if all_of_them else found[:WORST]
    wrapper = textwrap.TextWrapper(width() - 2, initial_indent="  ", subsequent_indent="    ")
    lines = [line for x in shown for line in wrapper.wrap(f"{x.severity}: {x.text}")]
    rest = f"; the worst {WORST} (all in table.txt)" if len(shown) < len(found) else ""
    return "\n".join([f"Warnings: {len(found)}{rest}", *lines]) if found else "Warnings: none"
