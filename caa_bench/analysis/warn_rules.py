"""The warning rules: each sees one behavior's tables and the facts that are not in them, and gives one finding or none.

At most one a behavior and rule, with the worst case in words and a count, so that a sweep of 200 cells does not bury
the reader.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from caa_bench.analysis.placebo import within_placebo
from caa_bench.analysis.verdict import LOCKED_CAVEAT, MASS_CAVEAT, MEASURABLE, SMALLEST, opposite
from caa_bench.analysis.warn_dose import not_felt, steered_too_far
from caa_bench.analysis.warn_facts import Found, Rule, RunFacts, Severity, Tables
from caa_bench.analysis.warn_pairs import pairs_hardly_agree, sides_overlap


def _own(table: pd.DataFrame) -> pd.DataFrame:
    """Lines of the behavior's own CAA vector."""
    return table[(table["vector"] == "caa") & table["vector_behavior"].isin(["", *table["behavior"].unique()])]


def _where(line: pd.Series) -> str:
    dose = f" at {line['multiplier']:+g}" if line["multiplier"] else ""
    layer = "" if np.isnan(line["layer"]) else f" (layer {line['layer']:.0f})"
    own = "" if line["base_dose"] == 1 else f" x{line['base_dose']:g}"
    return f"{line['base']}{own}{dose}{layer}"


def _gate(table: pd.DataFrame, column: str, *, caution: float, severe: float, text: str) -> Found | None:
    over = table[table[column] > caution]
    if over.empty:
        return None
    worst = over.loc[over[column].idxmax()]
    severity: Severity = "severe" if worst[column] > severe else "caution"
    return Found(severity=severity, count=len(over), text=text.format(worst=worst[column], where=_where(worst)))


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


def item_errors(tables: Tables, facts: RunFacts) -> Found | None:
    """Items without a score."""
    missing = tables.cells["n_items"] - tables.cells["n"]
    cells = tables.cells[missing > 0]
    if cells.empty:
        return None
    text = f"{int(missing.max())} items of {_where(tables.cells.loc[missing.idxmax()])} have no score and are left out."
    return Found(severity="caution", count=len(cells), text=text)


def train_letters(tables: Tables, facts: RunFacts) -> Found | None:
    """Train keys outside 45-55% A."""
    share = facts.train_share_a
    if share is None or 0.45 <= share <= 0.55:
        return None
    return Found(severity="caution", text=f"{share:.0%} of the train keys are A: the vector can carry the letter.")


def longer_option(tables: Tables, facts: RunFacts) -> Found | None:
    """The matching option is the longer one much more or much less often than not."""
    share = facts.train_longer_share
    if share is None or not length_matters(share):
        return None
    text = f"The matching option is the longer one in {share:.0%} of the train items"
    if facts.halves is not None and len(facts.halves):
        lines = {line["half"]: line for line in facts.halves.to_dict("records")}
        dose = next(iter(lines.values()))["multiplier"]
        effects = [f"{_effect(lines[half])} where it is {half}" for half in ("longer", "shorter") if half in lines]
        text += f"; CAA at {dose:+g} shifts the log-odds by {' and '.join(effects)}"
    return Found(severity="caution", text=f"{text}.")


def length_matters(share: float) -> bool:
    """Whether so many of the train items having the longer option match may teach a vector length. (0-1)"""
    return not 0.35 <= share <= 0.65


def _effect(line: Mapping[str, Any]) -> str:
    """`+1.20 [+1.00, +1.40] (n 25)`; the point alone where there are too few items for an interval."""
    ends = "" if np.isnan(line["shift_low"]) else f" [{line['shift_low']:+.2f}, {line['shift_high']:+.2f}]"
    return f"{line['shift']:+.2f}{ends} (n {line['n']})"


def within_placebos(tables: Tables, facts: RunFacts) -> Found | None:
    """An effect no larger than a placebo's at the same dose."""
    own = _own(tables.shifts)
    inside = own[within_placebo(tables.shifts).loc[own.index].fillna(False).astype(bool)]
    if inside.empty:
        return None
    alone = inside["base"] == "none"
    text = f"CAA moves {_where(inside[alone].iloc[0] if alone.any() else inside.iloc[0])} no further than a placebo."
    return Found(severity="severe" if alone.any() else "caution", count=len(inside), text=text)


def not_monotone(tables: Tables, facts: RunFacts) -> Found | None:
    """A dose curve that turns back by more than its intervals."""
    steps = _steps(_own(tables.shifts))
    turns = steps[steps["turn"] > 0]
    if turns.empty:
        return None
    worst = turns.loc[turns["turn"].idxmax()]
    text = f"The dose curve is not monotone: {_where(worst)} falls {worst['turn']:.2f} log-odds behind a smaller dose."
    return Found(severity="caution", count=len(turns), text=text)


def _steps(own: pd.DataFrame) -> pd.DataFrame:
    """Each dose with `turn`: how far it stays behind the next smaller one of its side, 0 where intervals overlap."""
    side, size = np.sign(own["multiplier"]), own["multiplier"].abs()
    ends = own[["shift_low", "shift_high"]].mul(side, axis=0)
    table = own.assign(side=side, size=size, pushed=own["shift"] * side, least=ends.min(axis=1), most=ends.max(axis=1))
    table = table[side != 0].sort_values("size", kind="stable")
    curve = ["model", "protocol", "evaluator", "base", "base_dose", "vector_layer", "layer", "side"]
    smaller = table.groupby(curve, dropna=False)[["pushed", "least"]].shift()
    behind = (smaller["pushed"] - table["pushed"]).where(table["most"] < smaller["least"], 0.0)
    return table.assign(turn=behind)


def anti_steerable(tables: Tables, facts: RunFacts) -> Found | None:
    """More than a quarter of the items go the wrong way."""
    own = _own(tables.reliability)
    over = own[own["anti_steerable_share"] > 0.25]
    if over.empty:
        return None
    worst = over.loc[over["anti_steerable_share"].idxmax()]
    text = f"CAA steers {worst['anti_steerable_share']:.0%} of the items backwards on {worst['base']}."
    severity: Severity = "severe" if (over["base"] == "none").any() else "caution"
    return Found(severity=severity, count=len(over), text=text)


def choice_at_edge(tables: Tables, facts: RunFacts) -> Found | None:
    """The chosen layer or dose ends its grid."""
    if not facts.choice_at_edge:
        return None
    what = " and ".join(facts.choice_at_edge)
    return Found(
        severity="note", text=f"The chosen {what} is at the edge of what was tried: a wider grid may do better."
    )


def near_duplicates(tables: Tables, facts: RunFacts) -> Found | None:
    """Stems that nearly repeat across splits."""
    if not facts.near_duplicates:
        return None
    text = f"{facts.near_duplicates} questions nearly repeat across splits: the test is not independent of the fit."
    return Found(severity="caution", text=text, count=facts.near_duplicates)


def reopened_test(tables: Tables, facts: RunFacts) -> Found | None:
    """The test split was evaluated more than once."""
    if facts.test_opened is None or facts.test_opened <= 1:
        return None
    text = (
        f"The test split was opened {facts.test_opened} times: what was chosen after the first is not confirmed by it."
    )
    return Found(severity="severe", text=text)


def unswapped_items(tables: Tables, facts: RunFacts) -> Found | None:
    """Items that could be asked in one order only."""
    if not facts.unswapped:
        return None
    text = f"{facts.unswapped} items name letters in an option and were asked in the given order only."
    return Found(severity="note", text=text, count=facts.unswapped)


def idle_base(tables: Tables, facts: RunFacts) -> Found | None:
    """A base arm that does nothing itself (a neutral prompt is meant to)."""
    bases = tables.stacking.drop_duplicates(["base", "base_dose"])
    bases = bases[~bases["base"].str.contains("neutral")]
    zero = (bases["base_alone_low"] <= 0) & (bases["base_alone_high"] >= 0)
    bases = bases.assign(idle=(zero | (bases["base_alone"].abs() < SMALLEST)) & bases["base_alone"].notna())
    idle = bases[bases.groupby("base")["idle"].transform("all")]  # a small dose beside a larger one may do nothing
    if idle.empty:
        return None
    names = ", ".join(sorted(idle["base"].unique()))
    return Found(severity="caution", count=len(idle), text=f"{names} alone does not move the behavior.")


def open_ended_disagrees(tables: Tables, facts: RunFacts) -> Found | None:
    """A/B answers and open-ended answers moved in opposite directions, both beyond their intervals."""
    if facts.open_ended is None:
        return None
    on = ["base", "base_dose", "layer", "multiplier"]
    alone = tables.shifts[(tables.shifts["multiplier"] == 0) & (tables.shifts["base"] != "none")]
    totals = {"shift_low": alone["total_low"], "shift_high": alone["total_high"]}
    effects = pd.concat([_own(tables.shifts), alone.assign(**totals)])
    both = effects.merge(facts.open_ended, on=on, suffixes=("", "_open"))
    ends = both[["shift_low", "shift_high", "shift_low_open", "shift_high_open"]].itertuples(index=False, name=None)
    against = both[np.array([opposite((a, b), (c, d)) for a, b, c, d in ends], dtype=bool)]
    if against.empty:
        return None
    text = f"A/B and open-ended answers move in opposite directions at {_where(against.iloc[0])}."
    return Found(severity="severe", count=len(against), text=text)


def underpowered(tables: Tables, facts: RunFacts) -> Found | None:
    """The smallest interaction the run could see is larger than CAA's own effect."""
    own = _own(tables.stacking)
    blind = own[(own["detectable_effect"] > own["alone"].abs()) & (own["family"] == "primary")]
    if blind.empty:
        return None
    worst = blind.loc[blind["detectable_effect"].idxmax()]
    text = (
        f"The smallest interaction seen with 80% power ({worst['detectable_effect']:.2f}) exceeds CAA's own effect "
        f"({worst['alone']:+.2f}) on {_where(worst)}: more items are needed."
    )
    return Found(severity="caution", count=len(blind), text=text)


def one_seed(tables: Tables, facts: RunFacts) -> Found | None:
    """Every stack rests on a single fit."""
    if tables.stacking.empty or (tables.stacking["n_fits"] > 1).any():
        return None
    return Found(severity="note", text="One seed: fit noise unknown.")


def fits_differ(tables: Tables, facts: RunFacts) -> Found | None:
    """Seeds or resamples that differ in the sign of CAA on top."""
    lines = _own(tables.stacking)
    lines = lines[lines["fits_disagree"].astype(bool)]
    if lines.empty:
        return None
    text = f"Fits disagree in the sign of CAA on top of {_where(lines.iloc[0])}."
    return Found(severity="severe", count=len(lines), text=text)


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        option_mass, letter_locked, letter_bias, item_errors, train_letters, longer_option, within_placebos,
        not_monotone, steered_too_far, not_felt, anti_steerable, choice_at_edge, near_duplicates, reopened_test,
        unswapped_items, idle_base, open_ended_disagrees, pairs_hardly_agree, sides_overlap, underpowered, one_seed,
        fits_differ,
    )
}  # fmt: skip
