"""The dose in words: a dose that is too strong for the answers to mean anything, and doses that nobody feels."""

from __future__ import annotations

import pandas as pd

from caa_bench.analysis.choice import FELT
from caa_bench.analysis.fairness import LEAST_MASS
from caa_bench.analysis.placebo import PLACEBOS
from caa_bench.analysis.warn_facts import Found, RunFacts, Tables

BASE = ["model", "protocol", "evaluator", "base", "base_dose"]


def steered_too_far(tables: Tables, facts: RunFacts) -> Found | None:
    """A dose that loses a tenth of the option mass of what it stands on: the rest is an effect on rarer answers."""
    shifts = tables.shifts
    plain = shifts[shifts["multiplier"] == 0].set_index(BASE)["option_mass"]
    steered = _own(shifts)
    before = pd.Series(plain.reindex(pd.MultiIndex.from_frame(steered[BASE])).to_numpy(), index=steered.index)
    lost = steered.assign(before=before, kept=steered["option_mass"] / before)
    lost = lost[lost["kept"] < LEAST_MASS]
    if lost.empty:
        return None
    worst = lost.loc[lost["kept"].idxmin()]
    more = f" ({len(lost) - 1} more doses or bases)" if len(lost) > 1 else ""
    text = (
        f"Steered too far: {_dose(worst)} on {worst['base']} leaves {worst['option_mass']:.2f} of the option mass, "
        f"which is {worst['before']:.2f} without it{more}: what it does there rests on answers the model hardly gives."
    )
    return Found(severity="caution", count=len(lost), text=text)


def not_felt(tables: Tables, facts: RunFacts) -> Found | None:
    """A vector that moves the unchanged model by less than FELT at every dose."""
    alone = _own(tables.shifts)
    alone = alone[(alone["base"] == "none") & alone["shift_low"].notna()]
    for vector, own in alone.groupby("vector", sort=False):
        if max(-own["shift_low"].min(), own["shift_high"].max()) > FELT:
            continue
        doses, layers = own["multiplier"], sorted(own["layer"].dropna().unique())
        where = f"layer {layers[0]:.0f}" if len(layers) == 1 else f"{len(layers)} layers"
        text = (
            f"Not felt: {vector} moves the log-odds by less than {FELT:g} at every dose from {doses.min():+g} to "
            f"{doses.max():+g} ({where}, n {own['n'].min()}): try other layers or larger doses (tune=layers does)."
        )
        return Found(severity="caution", count=len(own), text=text)
    return None


def _own(shifts: pd.DataFrame) -> pd.DataFrame:
    """Lines of every vector that is no placebo."""
    return shifts[(shifts["vector"] != "") & ~shifts["vector"].isin(PLACEBOS)]


def _dose(line: pd.Series) -> str:
    layer = "" if pd.isna(line["layer"]) else f" at layer {line['layer']:.0f}"
    return f"{line['vector']} {line['multiplier']:+g}{layer}"
