"""Warning rules about one vector method: each sees that vector's lines and gives one finding or none.

A run with several methods is asked once for each; none is written for one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from caa_bench.analysis.choice import FELT
from caa_bench.analysis.fairness import LEAST_MASS
from caa_bench.analysis.placebos import within_placebo
from caa_bench.analysis.verdict import opposite
from caa_bench.analysis.warn import Found, RunFacts, Severity, Tables, where


@dataclass(frozen=True, kw_only=True)
class Method:
    """One vector method of one behavior.

    Args:
        vector: its name in the tables.
        name: as a reader is told it.
        shifts, stacking, reliability: its own lines; of `shifts` also `within_placebo`.
        bases: the bases alone, lines of the shifts.
        unsteered: the same and the unchanged model.
    """

    vector: str
    name: str
    shifts: pd.DataFrame
    stacking: pd.DataFrame
    reliability: pd.DataFrame
    bases: pd.DataFrame
    unsteered: pd.DataFrame


def methods(tables: Tables, *, placebos: Mapping[str, str], shown: Callable[[str], str]) -> Iterator[Method]:
    """The behavior's own vectors that are no placebos, in the order of their names.

    Args:
        placebos: vector -> the vector whose placebo it is.
        shown: a vector as a reader is told it.
    """
    shifts = tables.shifts.assign(within_placebo=within_placebo(tables.shifts, tables.placebos))
    steered = shifts[shifts["multiplier"] != 0]
    for vector in sorted(set(steered["vector"]) - set(placebos)):
        yield Method(
            vector=vector,
            name=shown(vector),
            shifts=_own_lines(shifts, vector),
            stacking=_own_lines(tables.stacking, vector),
            reliability=_own_lines(tables.reliability, vector),
            bases=shifts[(shifts["multiplier"] == 0) & (shifts["base"] != "none")],
            unsteered=shifts[shifts["multiplier"] == 0],
        )


def _own_lines(table: pd.DataFrame, vector: str) -> pd.DataFrame:
    return table[(table["vector"] == vector) & table["vector_behavior"].isin(["", *table["behavior"].unique()])]


def within_placebos(method: Method, facts: RunFacts) -> Found | None:
    """An effect that placebos have at the same dose."""
    inside = method.shifts[method.shifts["within_placebo"].fillna(False).astype(bool)]
    if inside.empty:
        return None
    alone = inside["base"] == "none"
    worst = inside[alone].iloc[0] if alone.any() else inside.iloc[0]
    text = f"{method.name} moves {where(worst)} no further than its placebos."
    return Found(severity="severe" if alone.any() else "caution", count=len(inside), text=text)


def not_monotone(method: Method, facts: RunFacts) -> Found | None:
    """A dose curve that turns back by more than its intervals."""
    steps = _steps(method.shifts)
    turns = steps[steps["turn"] > 0]
    if turns.empty:
        return None
    worst = turns.loc[turns["turn"].idxmax()]
    text = (
        f"The dose curve of {method.name} is not monotone: {where(worst)} falls {worst['turn']:.2f} log-odds behind a "
        "smaller dose."
    )
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


def anti_steerable(method: Method, facts: RunFacts) -> Found | None:
    """More than a quarter of the items go the wrong way."""
    over = method.reliability[method.reliability["anti_steerable_share"] > 0.25]
    if over.empty:
        return None
    worst = over.loc[over["anti_steerable_share"].idxmax()]
    text = f"{method.name} steers {worst['anti_steerable_share']:.0%} of the items backwards on {worst['base']}."
    severity: Severity = "severe" if (over["base"] == "none").any() else "caution"
    return Found(severity=severity, count=len(over), text=text)


def open_ended_disagrees(method: Method, facts: RunFacts) -> Found | None:
    """A/B answers and open-ended answers moved in opposite directions, both beyond their intervals."""
    if facts.open_ended is None:
        return None
    totals = {"shift_low": method.bases["total_low"], "shift_high": method.bases["total_high"]}
    effects = pd.concat([method.shifts, method.bases.assign(**totals)])
    on = ["vector", "base", "base_dose", "layer", "multiplier"]
    both = effects.merge(facts.open_ended, on=on, suffixes=("", "_open"))
    ends = both[["shift_low", "shift_high", "shift_low_open", "shift_high_open"]].itertuples(index=False, name=None)
    against = both[np.array([opposite((a, b), (c, d)) for a, b, c, d in ends], dtype=bool)]
    if against.empty:
        return None
    text = f"A/B and open-ended answers move in opposite directions at {where(against.iloc[0])}."
    return Found(severity="severe", count=len(against), text=text)


def underpowered(method: Method, facts: RunFacts) -> Found | None:
    """The smallest interaction the run could see is larger than the vector's own effect."""
    own = method.stacking
    blind = own[(own["detectable_effect"] > own["alone"].abs()) & (own["family"] == "primary")]
    if blind.empty:
        return None
    worst = blind.loc[blind["detectable_effect"].idxmax()]
    text = (
        f"The smallest interaction seen with 80% power ({worst['detectable_effect']:.2f}) exceeds the own effect of "
        f"{method.name} ({worst['alone']:+.2f}) on {where(worst)}: more items are needed."
    )
    return Found(severity="caution", count=len(blind), text=text)


def fits_differ(method: Method, facts: RunFacts) -> Found | None:
    """Seeds or resamples that differ in the sign of the vector on top."""
    lines = method.stacking[method.stacking["fits_disagree"].astype(bool)]
    if lines.empty:
        return None
    text = f"Fits disagree in the sign of {method.name} on top of {where(lines.iloc[0])}."
    return Found(severity="severe", count=len(lines), text=text)


def steered_too_far(method: Method, facts: RunFacts) -> Found | None:
    """A dose that loses a tenth of the option mass of what it stands on: the rest is an effect on rarer answers."""
    place = ["model", "protocol", "evaluator", "base", "base_dose"]
    plain, steered = method.unsteered.set_index(place)["option_mass"], method.shifts
    before = plain.reindex(pd.MultiIndex.from_frame(steered[place])).to_numpy()
    lost = steered.assign(before=before, kept=steered["option_mass"].to_numpy() / before)
    lost = lost[lost["kept"] < LEAST_MASS]
    if lost.empty:
        return None
    worst = lost.loc[lost["kept"].idxmin()]
    more = f" ({len(lost) - 1} more doses or bases)" if len(lost) > 1 else ""
    text = (
        f"Steered too far: {method.name} on {where(worst)} leaves {worst['option_mass']:.2f} of the option mass, which "
        f"is {worst['before']:.2f} without it{more}: what it does there rests on answers the model hardly gives."
    )
    return Found(severity="caution", count=len(lost), text=text)


def not_felt(method: Method, facts: RunFacts) -> Found | None:
    """A vector that moves the unchanged model by less than FELT at every dose."""
    own = method.shifts[(method.shifts["base"] == "none") & method.shifts["shift_low"].notna()]
    if own.empty or max(-own["shift_low"].min(), own["shift_high"].max()) > FELT:
        return None
    doses, layers = own["multiplier"], sorted(own["layer"].dropna().unique())
    places = f"layer {layers[0]:.0f}" if len(layers) == 1 else f"{len(layers)} layers"
    text = (
        f"Not felt: {method.name} moves the log-odds by less than {FELT:g} at every dose from {doses.min():+g} to "
        f"{doses.max():+g} ({places}, n {own['n'].min()}): try other layers or larger doses (tune=layers does)."
    )
    return Found(severity="caution", count=len(own), text=text)


VECTOR_RULES: dict[str, Callable[[Method, RunFacts], Found | None]] = {
    rule.__name__: rule
    for rule in (
        within_placebos, not_monotone, steered_too_far, not_felt, anti_steerable, open_ended_disagrees, underpowered,
        fits_differ,
    )
}  # fmt: skip
