"""The answer in one sentence: what moves the behavior most, whether CAA adds on each base, at what cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from caa_bench.analysis.verdict import OPPOSITE
from caa_bench.report import words
from caa_bench.report.answers import leading
from caa_bench.report.arms import Row
from caa_bench.report.capability import capability, loss_clause
from caa_bench.report.costs import Cost, Timing
from caa_bench.report.headline import Headline, placebos
from caa_bench.report.quotes import Quote, Span, cell_quote

if TYPE_CHECKING:
    from caa_bench.report import Report


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A verdict as shown, to be set off from the text around it."""

    text: str


Part = str | Quote | Span | Timing | Verdict
Clause = tuple[Part, ...]


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """The answer, the main clause first."""

    clauses: tuple[Clause, ...]

    def lines(self, *, timings: bool = True) -> list[str]:
        """Each clause as plain text; without `timings`, equal for equal results."""
        return [_plain(clause, timings=timings) for clause in self.clauses]


def sentence(report: Report, chosen: Headline, *, rows: Sequence[Row], costs: Sequence[Cost]) -> Sentence:
    """The sentence of a run; where it holds only the unchanged model's curve, the sentence of a sweep."""
    title = str(report.manifest["facts"]["behavior"]["title"])
    alone = list(_alone(chosen, rows)) if any(row.kind == "base" for row in rows) else []
    where = _where(chosen) if not alone else []
    first = _movers(title, chosen, rows) if rows else _untested(title, report, chosen)
    clauses = [(*first, *where), *alone, *_stacks(report, chosen, rows), *_fits(costs), *_mass(rows)]
    if (found := capability(report, chosen)) is not None:
        clauses.append(loss_clause(found, chosen))
    return Sentence(clauses=tuple(clauses))


def row_name(row: Row, chosen: Headline) -> str:
    """`lora_sft_positive`, or `CAA +1` for the vector that is put on it."""
    stacked = row.kind in ("vector", "stack")
    return f"{words.vector_name(chosen.vector)} {words.dose(row.multiplier)}" if stacked else row.name


def _movers(title: str, chosen: Headline, rows: Sequence[Row]) -> Clause:
    """The strongest arm in each direction, of those whose effect is told apart from nothing."""
    moved = [
        row for row in rows if row.kind in ("base", "vector") and row.effect is not None and row.effect.point.known
    ]
    if not moved:
        return (f"{title}: nothing was measured that could move it",)
    settled = [row for row in moved if row.effect is not None and _settled(row.effect)]
    parts: list[Part] = []
    for sign, direction in ((1, "up"), (-1, "down")):
        towards = [row for row in settled if sign * _effect(row) > 0]
        if towards:
            best = max(towards, key=lambda row: sign * _effect(row))
            parts += [" and " if parts else f"{title} moves most ", f"{direction} with {row_name(best, chosen)} ("]
            parts += [*_levels(best), ")"]
    if not parts:
        return (f"{title}: no arm moves it measurably",)
    return tuple(parts)


def _untested(title: str, report: Report, chosen: Headline) -> Clause:
    """Where there was no A/B test: the judged answers of the unchanged model and of the vector on it, if there are."""
    if report.answers is None:
        return (f"{title}: no A/B test in this run",)
    parts: list[Part] = [f"{title}: no A/B test in this run; in words, scored from 0 to 1, "]
    said = [x for x in leading(report.answers, chosen, report).to_dict("records") if x["base"] == "none"]
    for place, cell in enumerate(said):
        name = words.on_top(chosen.vector, cell["multiplier"])
        parts += [f"{', ' if place else ''}{name} ", cell_quote(cell, "score", words.probability)]
    return tuple(parts)


def _alone(chosen: Headline, rows: Sequence[Row]) -> Iterator[Clause]:
    """The vector on the unchanged model."""
    moved = [row for row in rows if row.kind == "vector"]
    bases = [abs(_effect(row)) for row in rows if row.kind == "base"]
    leads = [all(abs(_effect(row)) > other for other in bases) for row in moved]
    if all(leads):  # then it is what moves the behavior most, and has been said
        return
    parts: list[Part] = [f"{words.vector_name(chosen.vector)} alone "]
    for number, row in enumerate(moved):
        parts += [", " if number else "", f"at {words.dose(row.multiplier)} (", *_levels(row), ")"]
    yield tuple(parts)


def _where(chosen: Headline) -> list[Part]:
    if chosen.layer is None or len(chosen.layers) < 2:
        return []
    return [f" at layer {words.count(chosen.layer)}, {chosen.layer_reason}"]


def _stacks(report: Report, chosen: Headline, rows: Sequence[Row]) -> Iterator[Clause]:
    """On top of each base that pushes somewhere, the dose that pushes the same way."""
    name = words.vector_name(chosen.vector)
    for row in _at_telling_doses(leading_stacks(rows), report, chosen):
        parts: list[Part] = [f"{name} {words.dose(row.multiplier)} on {row.name}: ", Verdict(text=row.told), " ("]
        if row.kept is not None:
            parts += ["retention ", row.kept, ", "]
        yield (*parts, *_levels(row), ")")


def _at_telling_doses(stacks: Sequence[Row], report: Report, chosen: Headline) -> Iterator[Row]:
    """Of a base with more than two doses the full and the matched one; where there is room first: that says more."""
    matched = report.matched.set_index("base")["base_dose"].to_dict()
    for base in dict.fromkeys(row.base for row in stacks):
        own = [row for row in stacks if row.base == base]
        if len(own) > 2:
            full = min(own, key=lambda row: abs(row.base_dose - 1)).base_dose
            own = [row for row in own if row.base_dose in (full, matched.get(base))]
        yield from sorted(own, key=lambda row: "no room" in row.tags)


def leading_stacks(rows: Sequence[Row]) -> list[Row]:
    """One stack a base, in the base's own direction; placebo bases (neutral) only where there is nothing else."""
    stacks = [row for row in rows if row.kind == "stack"]
    pushing = [row for row in stacks if not row.base.endswith("_neutral")] or stacks
    found: dict[str, Row] = {}
    for row in pushing:
        wanted = -1 if row.base.endswith("_negative") else 1
        kept = found.get(row.name)
        if kept is None or (row.multiplier * wanted > 0 >= kept.multiplier * wanted):
            found[row.name] = row
    return list(found.values())


def _fits(costs: Sequence[Cost]) -> Iterator[Clause]:
    """Seconds and bytes of each kind of fit, the dearest variant of each."""
    by_kind: dict[str, Cost] = {}
    for cost in costs:
        kind = cost.label.removesuffix("_positive").removesuffix("_negative")
        known = by_kind.get(kind)
        if cost.label not in placebos() and (known is None or (cost.stored_bytes or 0) > (known.stored_bytes or 0)):
            by_kind[kind] = cost
    parts: list[Part] = []
    for kind, cost in by_kind.items():
        took: list[Part] = [] if cost.seconds is None else [Timing(text=f" in {cost.seconds.text}")]
        kept: list[Part] = [] if cost.stored is None else [" ", cost.stored]
        if kept or took:
            parts += [", " if parts else "a fit stores ", kind, *kept, *took]
    if parts:
        yield tuple(parts)


def _mass(rows: Sequence[Row]) -> Iterator[Clause]:
    known = [row for row in rows if row.option_mass.known]
    if known:
        yield ("option mass at least ", min(known, key=lambda row: row.option_mass.value).option_mass)


def _levels(row: Row) -> list[Part]:
    before: list[Part] = [] if row.before is None else [row.before, " -> "]
    against: list[Part] = [f", {OPPOSITE}"] if OPPOSITE in row.tags and row.kind != "stack" else []
    return ["p ", *before, row.after, *against]


def _effect(row: Row) -> float:
    return row.effect.point.value if row.effect is not None else 0.0


def _settled(effect: Span) -> bool:
    """The interval leaves out 0; below 20 items there is none and the point has to do."""
    return not effect.bounded or effect.low.value > 0 or effect.high.value < 0


def _plain(clause: Clause, *, timings: bool) -> str:
    shown = clause if timings else [part for part in clause if not isinstance(part, Timing)]
    text = "".join(part.text if isinstance(part, Timing | Verdict) else str(part) for part in shown)
    return " ".join(text.split())  # a timing left out leaves two blanks
