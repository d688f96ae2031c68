"""Several behaviors side by side: what `compare all` prints last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from caa_bench.analysis.verdict import OPPOSITE
from caa_bench.report import words
from caa_bench.report.arms import Row, rows
from caa_bench.report.columns import WIDTH, columns
from caa_bench.report.headline import Headline, headline, items_asked
from caa_bench.report.sentence import leading_stacks
from caa_bench.storage.files import terminal_safe

if TYPE_CHECKING:
    from caa_bench.report import Report


def render_summary(reports: Sequence[Report]) -> str:
    """Two tables, a line a behavior: the vector alone, then its verdict on top of each base in the base's direction."""
    if not reports:
        return "no behavior was run"
    found = [(report, chosen := headline(report), rows(report, chosen)) for report in reports]
    titles = _titles(reports)
    bases = list(dict.fromkeys(row.name for _, _, arms in found for row in leading_stacks(arms)))
    alone = [
        [title, *_alone(chosen, arms), *_told(report)]
        for title, (report, chosen, arms) in zip(titles, found, strict=True)
    ]
    parts = [
        f"{len(reports)} behaviors on {', '.join(dict.fromkeys(str(r.manifest['recipe']['model']) for r in reports))}",
        "The vector alone: p(matching), and the strongest arm\n"
        + columns(["behavior", "layer", "dose -", "alone", "dose +", "up most", "down most", "n", "warnings"], alone),
    ]
    if bases:
        arms = list(zip(titles, (own for _, _, own in found), strict=True))
        parts.append("Does it still add? Verdict and retention in the base's own direction\n" + _stacks(bases, arms))
    text = "\n\n".join(parts)
    return "\n".join(terminal_safe(line).rstrip() for line in text.split("\n"))


def _titles(reports: Sequence[Report]) -> list[str]:
    """Each run's behavior; its folder where two runs are of the same one."""
    names = [str(report.manifest["facts"]["behavior"]["id"]) for report in reports]
    folders = [str(report.folder) for report in reports]
    return [folder if names.count(name) > 1 else name for name, folder in zip(names, folders, strict=True)]


def _stacks(bases: Sequence[str], arms_of: Sequence[tuple[str, Sequence[Row]]]) -> str:
    """A column a base; where that is too wide, a line a behavior and base."""
    lines = [[title, *_verdicts(bases, arms)] for title, arms in arms_of]
    wide = columns(["behavior", *map(_short, bases)], lines)
    if max(map(len, wide.split("\n"))) <= WIDTH:
        return wide
    long = [[line[0], base, verdict] for line in lines for base, verdict in zip(bases, line[1:], strict=True)]
    return columns(["behavior", "base", "verdict"], long)


def _alone(chosen: Headline, arms: Sequence[Row]) -> list[str]:
    unchanged = next((str(row.after) for row in arms if row.kind == "none"), words.NA)
    moved = {row.multiplier > 0: str(row.after) for row in arms if row.kind == "vector"}
    layer = words.NA if chosen.layer is None else words.count(chosen.layer)
    return [layer, moved.get(False, words.NA), unchanged, moved.get(True, words.NA), *(_most(arms, s) for s in (1, -1))]


def _most(arms: Sequence[Row], sign: int) -> str:
    """The arm that moves the behavior furthest in one direction, with where it ends."""
    moved = [
        r for r in arms if r.kind in ("base", "vector") and r.effect is not None and sign * r.effect.point.value > 0
    ]
    if not moved:
        return words.NA
    best = max(moved, key=lambda row: sign * row.effect.point.value if row.effect else 0.0)
    name = _short(best.name) if best.kind == "base" else f"vector {words.dose(best.multiplier)}"
    return f"{name} {best.after}"


def _told(report: Report) -> list[str]:
    grave = sum(notice.severity in ("missing", "severe") for notice in report.notices)
    return [
        str(items_asked(report)[0]),
        f"{len(report.notices)}" + (f" ({grave} severe)" if grave else ""),
    ]


def _verdicts(bases: Sequence[str], arms: Sequence[Row]) -> list[str]:
    found = {row.name: row for row in leading_stacks(arms)}
    return [_verdict(found[base]) if base in found else words.NA for base in bases]


def _verdict(row: Row) -> str:
    told = row.verdict if row.kept is None else f"{row.verdict} {row.kept.point}"
    told = "no room" if "no room" in row.tags else told
    return f"{told}; {OPPOSITE}" if OPPOSITE in row.tags else told


def _short(name: str) -> str:
    """Long names in a narrow table: `prompt +`, `lora -`."""
    for long, short in (("+", " & "), ("system_prompt", "prompt"), ("lora_sft", "lora")):
        name = name.replace(long, short)
    return name.replace("_positive", " +").replace("_negative", " -")
