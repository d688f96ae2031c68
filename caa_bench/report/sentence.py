"""The answer in a few sentences: what moves the behavior most, whether the vector adds on each base, at what cost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from caa_bench.analysis.verdict import MEASURABLE, OPPOSITE
from caa_bench.report import words
from caa_bench.report.arms import Cost, costs, directed, keeps, moves
from caa_bench.report.leads import to_cell
from caa_bench.report.sections.costs import NAMED, capability_finding, capability_lines, cost_in_words
from caa_bench.runs.tuning_record import tuning_lines

if TYPE_CHECKING:
    from caa_bench.report.model import Report

Line = dict[str, Any]
UNTUNED = "No dose or layer was tuned on these items"


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A piece of a sentence that is set off: a `verdict`, or a `timing`, which no two runs share."""

    kind: str
    text: str


Clause = tuple[str | Mark, ...]


@dataclass(frozen=True, kw_only=True)
class Chip:
    """The verdict on one base: the word that colors it, the base, the whole verdict, retention, and what it means.

    `lead` is a link to the items of the vector on the base.
    """

    kind: str
    lead: str
    base: str
    words: str
    kept: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Told:
    """A clause of the answer, and the section of the page that holds the lines behind it."""

    section: str
    clause: Clause


@dataclass(frozen=True, kw_only=True)
class Card:
    """The answer at one glance.

    Args:
        told: at most four sentences: what moves the behavior, what the vector adds, what it costs, how sure that is.
        null: nothing moves the behavior, or nothing could be said to.
        chips: one a base.
        beside: smaller print: how layer and dose were found, the vector alone, fits, option mass.
    """

    told: tuple[Told, ...]
    null: bool
    chips: tuple[Chip, ...]
    beside: tuple[Told, ...]

    @property
    def sentences(self) -> tuple[str, ...]:
        """The answer as plain text."""
        return tuple(plain(one.clause) for one in self.told)


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """The answer, the main clause first."""

    clauses: tuple[Clause, ...]

    def lines(self, *, timings: bool = True) -> list[str]:
        """Each clause as plain text; without `timings`, equal for equal results."""
        return [plain(clause, timings=timings) for clause in self.clauses]


def plain(clause: Clause, *, timings: bool = True) -> str:
    """A clause without its marks."""
    kept = [part for part in clause if timings or isinstance(part, str) or part.kind != "timing"]
    return "".join(part if isinstance(part, str) else part.text for part in kept)


def sentence(report: Report) -> Sentence:
    """The sentences of a run."""
    lines: list[Line] = report.arms.to_dict("records")
    alone = list(_alone(report, lines))
    first = _movers(report, lines) if lines else _untested(report)
    clauses: list[Clause] = [(first if alone else first + _where(report),), *((x + _where(report),) for x in alone)]
    clauses += [*_stacks(report), *_fits(report, costs(report)), *_mass(lines)]
    cost = capability_finding(report)
    return Sentence(clauses=(*clauses, (cost,)) if cost else tuple(clauses))


def card(report: Report) -> Card:
    """The answer of a run, for a reader with ten seconds."""
    lines: list[Line] = report.arms.to_dict("records")
    chosen, record = report.headline, report.record
    several = chosen.layer is not None and len(chosen.layers) > 1
    added = _added(report)
    layer = f"Layer {words.count(chosen.layer or 0.0)}"
    said = tuning_lines(record.tuning)
    own = [line for line in said if line.startswith(f"{chosen.vector}: ")] or said
    tuned = own[0].replace(f"{chosen.vector}: ", f"{words.display(chosen.vector)}: ", 1) if own else UNTUNED
    told = [
        ("arms" if lines else "answers", _movers(report, lines) if lines else _untested(report)),
        ("arms", added) if added else ("layers", f"{layer} leads: {chosen.layer_reason}" * several),
        ("capability" if len(capability_lines(report)) else "costs", cost_in_words(report)),
        ("arms", _sure(report, lines)),
    ]
    beside = [
        ("tuning", (tuned.rstrip("."),)),
        *(("arms", (part,)) for part in _alone(report, lines)),
        *([("layers", (f"{layer}: {chosen.layer_reason}",))] if added and several else []),
        *(("costs", part) for part in _fits(report, costs(report))),
        *(("letters", part) for part in _mass(lines)),
    ]
    return Card(
        told=tuple(Told(section=section, clause=(text,)) for section, text in told if text),
        null=bool(lines) and not any(map(moves, _movable(lines))),
        chips=tuple(_chip(line) for line in _at_telling_doses(report)),
        beside=tuple(Told(section=section, clause=clause) for section, clause in beside),
    )


def kind_of(line: Mapping[str, Any]) -> str:
    """The word that colors a verdict; where there is no room nothing can be said to add."""
    return "no room" if "no room" in str(line["tags"]).split(";") else words.verdict_kind(line["verdict"])


def _chip(line: Line) -> Chip:
    base = words.human(words.named(line["base"], line["base_dose"]))
    kept = f"retention {words.interval(line, 'retention')}" if keeps(line) else ""
    return Chip(
        kind=kind_of(line),
        lead=to_cell(line["cell"]),
        base=base,
        words=line["verdict_words"],
        kept=kept,
        meaning=words.meaning(line["verdict_words"]),
    )


def _added(report: Report) -> str:
    """`CAA still adds on the positive system prompt (82% -> 92%); it adds less on ...`; "" without a stack."""
    verbs = {"adds": "still adds on", "adds less": "adds less on", "adds nothing": "adds nothing on",
             "backfires": "works against", "no room": "has no room on", "not settled": "is not settled on",
             "not measurable": "is not measurable on", "no verdict": "has no verdict on"}  # fmt: skip
    told: dict[str, list[str]] = {}
    for line in _at_telling_doses(report):
        told.setdefault(kind_of(line), []).append(
            f"{words.with_article(line['base'], line['base_dose'])} ({_levels(line)})"
        )
    parts = [f"{verb} {_listed(told[kind])}" for kind, verb in verbs.items() if kind in told]
    return f"{words.display(report.headline.vector)} {'; it '.join(parts)}" if parts else ""


def _listed(names: list[str]) -> str:
    """`a, b and 2 more`."""
    if len(names) > NAMED:
        return f"{', '.join(names[: NAMED - 1])} and {len(names) - NAMED + 1} more"
    return words.listed(names)


def _movers(report: Report, lines: list[Line]) -> str:
    """The strongest arm in each direction, of those whose effect is told apart from nothing and is worth a claim."""
    title = words.lowered(report.record.behavior.title)
    known = _movable(lines)
    if not known:
        return f"Nothing was measured that could move {title}"
    moved = [line for line in known if moves(line)]
    if not moved:
        return _null(report, title, max(known, key=lambda line: abs(line["shift"])))
    said: list[str] = []
    for sign, verb in ((1, "raise"), (-1, "lower")):
        towards = sorted((x for x in moved if sign * x["shift"] > 0), key=lambda x: -sign * x["shift"])
        if towards:
            tied = [towards[0], *(x for x in towards[1:] if _tied(report, towards[0], x, sign))]
            what = "it" if said else title
            said.append(f"{_several(tied, verb, what)}{_further(report, towards[0], sign)}")
    text = "; ".join(said)
    return text[0].upper() + text[1:] if text.startswith("the ") else text


def _movable(lines: list[Line]) -> list[Line]:
    """The arms alone whose shift is known."""
    return [x for x in lines if x["kind"] in ("base", "vector") and not math.isnan(x["shift"])]


def _sure(report: Report, lines: list[Line]) -> str:
    """The interval of the furthest arm in each direction, n, and the vector's rank among its placebos."""
    moved, vector = [line for line in _movable(lines) if moves(line)], words.display(report.headline.vector)
    furthest = [max(own, key=lambda x: abs(x["shift"])) for sign in (1, -1)
                if (own := [line for line in moved if sign * line["shift"] > 0])]  # fmt: skip
    shifts = [f"{_subject(line)} by {words.interval(line, 'shift', words.signed)}" for line in furthest]
    ranks: dict[str, list[str]] = {}
    for line in lines:
        rank = line["verdict_words"].split(";")[0]
        if line["kind"] == "vector" and rank.startswith(("beyond", "within")):
            ranks.setdefault(rank, []).append(words.dose(line["multiplier"]))
    placed = [f"{vector} at {' and '.join(doses)} is {rank}" for rank, doses in ranks.items()]
    if not shifts and not placed:
        return ""
    asked, clusters = report.asked
    counted = f"{asked} items" + ("" if clusters == asked else f" in {clusters} clusters")
    told = f"{' and '.join(shifts)} log-odds" + " (95% interval)" * any("[" in one for one in shifts) if shifts else ""
    return f"How sure: {'; '.join(filter(None, [told, *placed, f'n {counted}']))}"


def _null(report: Report, title: str, largest: Line) -> str:
    shift = words.interval(largest, "shift", words.signed)
    found = f"largest: {_subject(largest)}, {shift} log-odds, {_levels(largest)}"
    if math.isnan(largest["shift_low"]):
        return f"Too few items for an interval, so nothing is said to move {title} ({found})"
    cells = report.measured("cells")
    plain = cells[(cells["base"] == "none") & (cells["multiplier"] == 0)]
    if len(plain) and plain["mass_low_share"].iloc[0] > MEASURABLE:
        mass = words.percent(plain["option_mass"].iloc[0])
        return (
            f"Not measurable by letters, which hold {mass} of the probability in the unchanged model: ask in words "
            f"(recipes/open_ended.yaml), or ask a larger model ({found})"
        )
    return f"Nothing measured here moves {title} ({found})"


def _several(tied: list[Line], verb: str, what: str) -> str:
    if len(tied) == 1:
        return f"{_subject(tied[0])} {verb}s {what} most ({_levels(tied[0])})"
    *others, last = map(_subject, tied)
    after = ", ".join([_levels(tied[0]), *(words.percent(line["p_balanced"]) for line in tied[1:])])
    return f"{', '.join(others)} and {last} {verb} {what} about equally ({after})"


def _tied(report: Report, best: Line, other: Line, sign: int) -> bool:
    """Whether the difference of two arms, item by item, is not told apart from 0, or their levels read the same."""
    if words.percent(best["p_balanced"]) == words.percent(other["p_balanced"]):
        return True
    gap = report.contrast({best["cell"]: sign, other["cell"]: -sign})
    return not gap.low > 0


def _further(report: Report, best: Line, sign: int) -> str:
    """A dose or layer that does not lead but moves the behavior more than anything that does."""
    shifts, chosen = report.measured("shifts"), report.headline
    own = shifts[(shifts["base"] == "none") & (shifts["vector"] == chosen.vector) & (shifts["vector"] != "")]
    own = own[sign * own["shift"] > sign * best["shift"]]
    if own.empty:
        return ""
    line = own.loc[own["shift"].abs().idxmax()].to_dict()
    if line["cell"] == best["cell"] or not moves(line):
        return ""
    layer = f" at layer {words.count(line['layer'])}" if line["layer"] != chosen.layer else ""
    level = words.percent(line["p_balanced"])
    return f", though {words.on_top(chosen.vector, line['multiplier'])}{layer} moves it further ({level})"


def _untested(report: Report) -> str:
    """Where there was no A/B test: the judged answers of the unchanged model and of the vector on it, if there are."""
    first = f"{report.record.behavior.title}: no A/B test in this run"
    if report.answers is None:
        return first
    said = [x for x in report.leading(report.answers.cells).to_dict("records") if x["base"] == "none"]
    vector = report.headline.vector
    scores = (f"{words.on_top(vector, x['multiplier'])} {words.probability(x['score'])}" for x in said)
    return f"{first}; in words, scored from 0 to 1, {', '.join(scores)}"


def _alone(report: Report, lines: list[Line]) -> Iterator[str]:
    """The vector on the unchanged model, where other arms stand beside it and move the behavior more."""
    moved = [line for line in lines if line["kind"] == "vector"]
    bases = [abs(line["shift"]) for line in lines if line["kind"] == "base"]
    if moved and bases and not all(abs(line["shift"]) > other for line in moved for other in bases):
        doses = (f"{_levels(line)} at {words.dose(line['multiplier'])}" for line in moved)
        yield f"{words.display(report.headline.vector)} alone: {', '.join(doses)}"


def _where(report: Report) -> str:
    chosen = report.headline
    if chosen.layer is None or len(chosen.layers) < 2:
        return ""
    return f"; layer {words.count(chosen.layer)} ({chosen.layer_reason})"


def _stacks(report: Report) -> Iterator[Clause]:
    """On top of each base that pushes somewhere, the dose that pushes the same way."""
    name = words.display(report.headline.vector)
    for line in _at_telling_doses(report):
        base = words.with_article(line["base"], line["base_dose"])
        kept = f"retention {words.interval(line, 'retention')}, " if keeps(line) else ""
        verdict = Mark(kind="verdict", text=line["verdict_words"])
        yield f"{name} {words.dose(line['multiplier'])} on {base}: ", verdict, f" ({kept}{_levels(line)})"


def _at_telling_doses(report: Report) -> Iterator[Line]:
    """Of a base with more than two doses the full and the matched one; where there is room first: that says more."""
    stacks = directed(report.arms)
    matched = report.matched.set_index("base")["base_dose"].to_dict()
    for base in dict.fromkeys(line["base"] for line in stacks):
        own = [line for line in stacks if line["base"] == base]
        if len(own) > 2:
            full = min(own, key=lambda line: abs(line["base_dose"] - 1))["base_dose"]
            own = [line for line in own if line["base_dose"] in (full, matched.get(base))]
        yield from sorted(own, key=lambda line: "no room" in line["tags"].split(";"))


def _fits(report: Report, every: list[Cost]) -> Iterator[Clause]:
    """Seconds and bytes of each kind of fit, the largest variant of each."""
    by_kind: dict[str, Cost] = {}
    for cost in every:
        kind, known = words.family(cost.label), by_kind.get(words.family(cost.label))
        larger = known is None or (cost.stored_bytes or 0) > (known.stored_bytes or 0)
        if not report.record.placebo_of(cost.label) and larger:
            by_kind[kind] = cost
    parts: list[str | Mark] = []
    for kind, cost in by_kind.items():
        if cost.stored_bytes is None and cost.fit_s is None:
            continue
        parts.append(f"{'. ' if parts else ''}{words.display(kind)}: ")
        if cost.fit_s is not None:
            ends = " to fit, " if cost.stored_bytes is not None else " to fit"
            parts.append(Mark(kind="timing", text=f"{words.seconds(cost.fit_s)}{ends}"))
        if cost.stored_bytes is not None:
            parts.append(f"{words.size(float(cost.stored_bytes))} stored")
    if parts:
        yield tuple(parts)


def _mass(lines: list[Line]) -> Iterator[Clause]:
    known = [line["option_mass"] for line in lines if not math.isnan(line["option_mass"])]
    if known:
        least = words.percent(min(known))
        hold = "more than " + least[1:] if least.startswith(">") else f"at least {least}"
        yield (f"The answer letters hold {hold} of the probability in every row",)


def _subject(line: Line) -> str:
    """`the positive system prompt`, `CAA +1`."""
    return str(line["arm"]) if line["kind"] == "vector" else words.with_article(line["base"], line["base_dose"])


def _levels(line: Line) -> str:
    """`54% -> 86%`; where both read the same, the level alone."""
    after = words.percent(line["p_balanced"])
    before = words.percent(line["p_before"])
    against = f", {OPPOSITE}" if OPPOSITE in line["tags"] and line["kind"] != "stack" else ""
    if math.isnan(line["p_before"]):
        return f"{after}{against}"
    return f"{before} -> {after}{against}" if before != after else f"{after} before and after{against}"
