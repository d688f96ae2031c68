"""Every automatic warning of a run, worst first; and the rules about its data, model and pairs.

Each rule sees one behavior's tables and the facts that are not in them, and gives one finding or none: at most one a
behavior and rule, with the worst case in words and a count, so that a sweep of 200 cells does not bury the reader.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from caa_bench.analysis.diagnostics import HARDLY_AGREE, POORLY_SEPARATED
from caa_bench.analysis.estimates import Interval
from caa_bench.analysis.stacking import NO_PLACEBOS
from caa_bench.analysis.verdict import LOCKED_CAVEAT, MASS_CAVEAT, MEASURABLE, SMALLEST
from caa_bench.analysis.warn import RANK, Found, RunFacts, Severity, Tables, where
from caa_bench.analysis.warn_vectors import VECTOR_RULES, methods

LETTER_GAP, LETTER_GAP_SEVERE = 0.25, 0.5
"""Difference of mean p(matching) between items keyed A and keyed B, by the near end of its interval."""


@dataclass(frozen=True, kw_only=True)
class RunWarning:
    """One thing a reader must know.

    Args:
        code: stable name of the rule.
        severity: "severe" (a number may mean something else), "caution" (it may mislead) or "note".
        behavior: whose.
        text: one sentence.
        count: cells or lines concerned.
    """

    code: str
    severity: Severity
    behavior: str
    text: str
    count: int = 1


def find_warnings(
    tables: Tables,
    facts: Mapping[str, RunFacts],
    *,
    placebos: Mapping[str, str] = NO_PLACEBOS,
    shown: Callable[[str], str] = str,
) -> list[RunWarning]:
    """Every warning of a run, most severe first, then by how much it concerns.

    Args:
        tables: the run's tables; where there are lines of the test split, only those count.
        facts: what else is known, by behavior; a behavior may be absent.
        placebos: vector -> the vector whose placebo it is; every other vector is asked about by itself.
        shown: a vector as a reader is told it ("caa" -> "CAA").
    """
    found: dict[tuple[str, str, str], RunWarning] = {}
    for behavior in sorted(tables.cells["behavior"].unique()):
        here, known = tables.on_test(behavior), facts.get(behavior, RunFacts())
        hits = [(code, rule(here, known)) for code, rule in RULES.items()]
        own = methods(here, placebos=placebos, shown=shown)
        hits += [(code, rule(one, known)) for one in own for code, rule in VECTOR_RULES.items()]
        for code, hit in hits:
            if hit is not None:  # two methods that say the same of the same base say it once
                found.setdefault((behavior, code, hit.text), RunWarning(code=code, behavior=behavior, **vars(hit)))
    return sorted(found.values(), key=lambda one: (RANK[one.severity], -one.count, one.code, one.behavior))


def option_mass(tables: Tables, facts: RunFacts) -> Found | None:
    """The answer letters hold too little probability."""
    text = "Option mass is under .5 on {worst:.0%} of the items of {where}: p(matching) says little there."
    return _gate(tables.cells, "mass_low_share", caution=MASS_CAVEAT, severe=MEASURABLE, text=text)


def letter_locked(tables: Tables, facts: RunFacts) -> Found | None:
    """Answers that follow the letter and not the option."""
    text = "The answer follows the letter, not the option, on {worst:.0%} of the items of {where}."
    return _gate(tables.cells, "letter_locked", caution=LOCKED_CAVEAT, severe=0.5, text=text)


def letter_bias(tables: Tables, facts: RunFacts) -> Found | None:
    """A mean |letter bias| above .5 log-odds."""
    text = "Mean |letter bias| is {worst:.2f} log-odds in {where}; balanced orders cancel its mean, not its noise."
    return _gate(tables.cells, "letter_bias_abs", caution=0.5, severe=np.inf, text=text)


def letter_gap(tables: Tables, facts: RunFacts) -> Found | None:
    """Where items are asked in one order only (the paper's protocol): p(matching) that depends on the right letter."""
    if facts.letters is None:
        return None
    one_order = tables.cells[tables.cells["letter_locked"].isna()]
    sides = facts.letters.pivot(index="cell", columns="key", values=["p_matching", "se"]).reindex(one_order["cell"])
    if not {"A", "B"} <= set(sides.columns.get_level_values("key")):
        return None
    p, se = sides["p_matching"], sides["se"]
    gap = (p["A"] - p["B"]).abs()
    near = (gap - 1.96 * np.hypot(se["A"], se["B"])).set_axis(one_order.index)
    over = near[near > LETTER_GAP]
    if over.empty:
        return None
    worst = one_order.loc[over.idxmax()]
    severity: Severity = "severe" if over.max() > LETTER_GAP_SEVERE else "caution"
    text = (
        f"The answers follow the letter: p(matching) is {p.loc[worst['cell'], 'A']:.2f} on items keyed A and "
        f"{p.loc[worst['cell'], 'B']:.2f} on items keyed B of {where(worst)}, and one order an item does not cancel it."
    )
    return Found(severity=severity, count=len(over), text=text)


def _gate(table: pd.DataFrame, column: str, *, caution: float, severe: float, text: str) -> Found | None:
    over = table[table[column] > caution]
    if over.empty:
        return None
    worst = over.loc[over[column].idxmax()]
    severity: Severity = "severe" if worst[column] > severe else "caution"
    return Found(severity=severity, count=len(over), text=text.format(worst=worst[column], where=where(worst)))


def item_errors(tables: Tables, facts: RunFacts) -> Found | None:
    """Warn of items that have no score in a cell."""
    missing = tables.cells["n_items"] - tables.cells["n"]
    cells = tables.cells[missing > 0]
    if cells.empty:
        return None
    text = f"{int(missing.max())} items of {where(tables.cells.loc[missing.idxmax()])} have no score and are left out."
    return Found(severity="caution", count=len(cells), text=text)


def longer_option(tables: Tables, facts: RunFacts) -> Found | None:
    """The matching option is the longer one much more or much less often than not."""
    share = facts.train_longer_share
    if share is None or not length_matters(share):
        return None
    text = f"The matching option is the longer one in {share:.0%} of the train items"
    if facts.halves is not None and len(facts.halves):
        lines = {line["half"]: line for line in facts.halves.to_dict("records")}
        first = next(iter(lines.values()))
        effects = [
            f"{Interval.take(lines[half], 'shift').text()} (n {lines[half]['n']}) where it is {half}"
            for half in ("longer", "shorter")
            if half in lines
        ]
        dose = f"{facts.leading or first['vector']} at {first['multiplier']:+g}"
        text += f"; {dose} shifts the log-odds by {' and '.join(effects)}"
    return Found(severity="caution", text=f"{text}.")


def length_matters(share: float) -> bool:
    """Whether so many of the train items having the longer option match may teach a vector length. (0-1)"""
    return not 0.35 <= share <= 0.65


def choice_at_edge(tables: Tables, facts: RunFacts) -> Found | None:
    """The chosen layer or dose ends its grid."""
    if not facts.choice_at_edge:
        return None
    what = " and ".join(facts.choice_at_edge)
    text = f"The chosen {what} is at the edge of what was tried: a wider grid may do better."
    return Found(severity="note", text=text)


def reopened_test(tables: Tables, facts: RunFacts) -> Found | None:
    """The test split was evaluated more than once."""
    opened = facts.test_opened
    if opened is None or opened <= 1:
        return _opened_before(facts.test_opening)
    text = f"The test split was opened {opened} times: what was chosen after the first is not confirmed by it."
    return Found(severity="severe", text=text)


def _opened_before(opening: int) -> Found | None:
    """Other runs beside this one looked at the same test split with the same model."""
    if opening <= 1:
        return None
    others = f"{opening - 1} other run{'s' * (opening > 2)}"
    text = f"{others} had opened this test split with this model before: what was changed since is not confirmed by it."
    return Found(severity="caution", text=text[0].upper() + text[1:])


def idle_base(tables: Tables, facts: RunFacts) -> Found | None:
    """A base arm that does nothing itself (a neutral prompt is meant to)."""
    bases = tables.stacking.drop_duplicates(["base", "base_dose"])
    bases = bases[~bases["base"].str.contains("neutral")]
    zero = (bases["base_alone_low"] <= 0) & (bases["base_alone_high"] >= 0)
    bases = bases.assign(idle=(zero | (bases["base_alone"].abs() < SMALLEST)) & bases["base_alone"].notna())
    idle = bases[bases.groupby("base")["idle"].transform("all")]  # a small dose beside a larger one may do nothing
    if idle.empty:
        return None
    names = sorted(idle["base"].unique())
    verb = "moves" if len(names) == 1 else "move"
    text = f"{', '.join(names)} alone {verb} the behavior by less than {SMALLEST:g} log-odds, or in no clear direction."
    return Found(severity="caution", count=len(idle), text=text)


def pairs_hardly_agree(tables: Tables, facts: RunFacts) -> Found | None:
    """The training pairs' differences point in too many directions for their mean to steer reliably."""
    line = facts.vector
    if line is None or not line["agreement_high"] < HARDLY_AGREE:
        return None
    none = line["agreement_low"] <= 0
    said = "agree on no direction" if none else "hardly agree"
    cosine = f"mean cosine with the vector {Interval.take(line, 'agreement').text()}"
    text = (
        f"The training pairs {said}: {cosine} at layer {line['layer']:.0f}, n {line['n']:.0f} pairs; such vectors "
        "steer unreliably."
    )
    return Found(severity="severe" if none else "caution", text=text)


def sides_overlap(tables: Tables, facts: RunFacts) -> Found | None:
    """Matching and other answers lie on top of each other along the vector."""
    line = facts.vector
    if line is None or not line["separability_high"] < POORLY_SEPARATED:
        return None
    apart = Interval.take(line, "separability").text(".2f")
    place = f"at layer {line['layer']:.0f} (d' {apart}, n {line['n']:.0f} pairs)"
    text = f"Matching and other answers overlap along the vector {place}: less is steered by such vectors."
    return Found(severity="note", text=text)


def one_seed(tables: Tables, facts: RunFacts) -> Found | None:
    """Every stack rests on a single fit."""
    if tables.stacking.empty or (tables.stacking["n_fits"] > 1).any():
        return None
    text = (
        "Each arm was fitted once, so fit noise is unknown: use fits=3. Another seed is no replication: where it draws "
        "no max_pairs and no split, every fit and every point stays the same."
    )
    return Found(severity="note", text=text)


RULES: dict[str, Callable[[Tables, RunFacts], Found | None]] = {
    rule.__name__: rule
    for rule in (
        option_mass, letter_locked, letter_bias, letter_gap, item_errors, longer_option, choice_at_edge, reopened_test,
        idle_base, pairs_hardly_agree, sides_overlap, one_seed,
    )
}  # fmt: skip
