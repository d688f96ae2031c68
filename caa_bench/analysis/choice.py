"""Which of the settings tried on the selection split an arm is tested with, and how clear that was. docs/numbers.md.

Candidates and item scores in, one line a candidate and a choice out; knows nothing of models, layers or files.
Shapes: N items, K candidates, C cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from caa_bench.analysis.cells import macro
from caa_bench.analysis.estimates import MIN_ITEMS, STANDARD, Resampling, cluster_sums
from caa_bench.analysis.fairness import LEAST_MASS, MOST_LOSS
from caa_bench.analysis.intervals import DIFFERENCE, TIE, bootstrap_mean, can_show_loss, enough
from caa_bench.behaviors.items import category_of

SIZE = 0.05
"""Chance that a choice among candidates that all do nothing is called one that works."""
FELT = 0.1
"""Log-odds: an effect that stays within this of 0, interval and all, moves nothing that a reader would see."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One setting of one arm.

    Args:
        group: what a rival must differ in to be one: the layer, or the wording.
        settings: what it is, as columns of tuning.csv.
        cells: direction (+1 or -1) -> the cell in which it pushes that way.
    """

    group: str
    cells: Mapping[int, str]
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Weighed:
    """The candidates of one arm with what each does.

    Args:
        table: one line a candidate: `group`, its settings, `n`, `effect` with its 95% interval (log-odds towards where
            it pushes, the mean over its directions), `p_value` (of `chance`), `shift_up` and `shift_down` (its two
            directions; NaN without one), `mass_kept` (option mass over the unchanged model's, of its worse direction),
            `capability_loss` (0-1, of its worse direction) with its interval, over `capability_items`
            questions, `qualifies`.
        effects: the effect item by item. [N, K]
        clusters: 0-based cluster of each item. [N]
    """

    table: pd.DataFrame
    effects: np.ndarray
    clusters: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A choice.

    Args:
        index: the chosen candidate.
        rival: the best one of another group; None where there is none.
        lead / lead_low / lead_high: how far it leads the rival, paired by item, log-odds; NaN without one.
        worked: it keeps option mass and capability, and its effect is told apart from 0 among so many tries and felt.
        why: what it lacks; "" where it worked.
    """

    index: int
    rival: int | None
    lead: float
    lead_low: float
    lead_high: float
    worked: bool
    why: str


def weigh(
    candidates: Sequence[Candidate],
    scores: pd.DataFrame,
    *,
    unchanged: str,
    capability: pd.DataFrame | None = None,
    how: Resampling = STANDARD,
) -> Weighed:
    """What each candidate does, against the unchanged model, item by item.

    Args:
        scores: of `items.item_scores`, of the behavior's items under the candidates' cells.
        unchanged: the cell of the unchanged model.
        capability: the same of the capability items, for the candidates' cells as far as they were measured.

    Raises:
        ValueError: a cell without scores.
    """
    y, mass = _matrix(scores, "log_odds"), _matrix(scores, "option_mass").mean()
    missing = {cell for one in candidates for cell in (unchanged, *one.cells.values())} - set(y)
    if missing:
        raise ValueError(f"no scores of {', '.join(sorted(missing))}")
    sides = {sign: _side(y, candidates, sign=sign, unchanged=unchanged) for sign in (1, -1)}
    both = np.stack(list(sides.values()))
    known = ~np.isnan(both).all(axis=1, keepdims=True) | np.zeros_like(both, dtype=bool)  # a direction it has
    effects = np.where(known, both, 0.0).sum(axis=0) / known.sum(axis=0)
    clusters = _clusters(scores, y.index)
    found = bootstrap_mean(effects, clusters, how=how)
    table = pd.DataFrame([{"group": one.group, **one.settings} for one in candidates])
    table["n"] = found.n
    table["effect"], table["effect_low"], table["effect_high"] = found.point, found.low, found.high
    table["p_value"] = chance(effects, clusters, how=how)
    for sign, name in ((1, "shift_up"), (-1, "shift_down")):
        table[name] = sign * _means(sides[sign])
    table["mass_kept"] = [min(mass[cell] for cell in one.cells.values()) / mass[unchanged] for one in candidates]
    losses = _losses(candidates, capability, unchanged=unchanged, how=how)
    return Weighed(table=_qualified(pd.concat([table, losses], axis=1)), effects=effects, clusters=clusters)


def choose(weighed: Weighed, *, how: Resampling = STANDARD) -> Chosen:
    """The largest effect among those that qualify; where none does, the largest of all, marked by what it lacks.

    Ties go to the candidate that stands first.
    """
    table = weighed.table
    pool = np.flatnonzero(table["qualifies"] & table["effect"].notna())
    pool = pool if len(pool) else np.flatnonzero(table["effect"].notna())
    effects = table["effect"].to_numpy(float)
    best = int(pool[np.argmax(effects[pool])]) if len(pool) else 0
    others = [k for k in pool if table["group"].iloc[k] != table["group"].iloc[best]]
    rival = int(others[int(np.argmax(effects[others]))]) if others else None
    lead = [np.nan] * 3
    if rival is not None:
        ahead = weighed.effects[:, [best]] - weighed.effects[:, [rival]]
        found = bootstrap_mean(ahead, weighed.clusters, how=how)
        lead = [found.point[0], found.low[0], found.high[0]]
    why = _lacks(table.iloc[best], tries=len(table))
    return Chosen(index=best, rival=rival, lead=lead[0], lead_low=lead[1], lead_high=lead[2], worked=not why, why=why)


def chance(values: np.ndarray, clusters: np.ndarray, *, how: Resampling = STANDARD) -> np.ndarray:
    """How often the best of as many candidates that do nothing is as far from 0, for each. [N, K] -> [K]

    Sign-flip over clusters with the largest standardized mean of all candidates (Westfall and Young 1993, max T): the
    best of 100 that do nothing has an interval without 0 nearly always, and neighboring doses are nearly one candidate,
    which a Bonferroni bound would count as many. NaN where there are too few items or all values are 0.
    """
    sums = cluster_sums(values, clusters)
    total = sums.total
    spread = np.sqrt((total**2).sum(axis=1, keepdims=True))
    tested = enough(sums) & (spread[:, 0] > 0)
    p = np.full(len(total), np.nan)
    if tested.any():
        signs = how.signs(total.shape[1])
        largest = np.max(np.abs(total[tested] @ signs) / spread[tested], axis=0)  # [B]
        seen = np.abs(total[tested].sum(axis=1, keepdims=True)) / spread[tested]
        p[tested] = (1 + (largest >= seen * (1 - TIE)).sum(axis=1)) / (1 + how.draws)
    return p


def _lacks(line: pd.Series, *, tries: int) -> str:
    """What keeps a candidate from having worked, the first reason that holds."""
    if line["mass_kept"] < LEAST_MASS:
        return f"it keeps only {line['mass_kept']:.2f} of the unsteered option mass, less than {LEAST_MASS:g}"
    if not line["qualifies"] and not can_show_loss(line["capability_items"], MOST_LOSS):
        return f"its capability loss is {line['capability_loss']:.3f}, more than {MOST_LOSS:g}"
    if not line["qualifies"]:
        return f"its capability loss may reach {line['capability_loss_high']:.3f}, more than {MOST_LOSS:g}"
    if np.isnan(line["effect_low"]):
        return f"{line['n']:.0f} items are too few for an interval; {MIN_ITEMS} are needed"
    if not line["effect"] > 0:
        return "it moves the behavior the wrong way"
    if not line["effect_low"] > 0:
        return "its interval holds 0"
    if line["effect_high"] <= FELT:
        return f"it stays within {FELT:g} log-odds of 0"
    if not line["p_value"] <= SIZE:
        return f"the best of {tries} tries that do nothing is as far from 0 with probability {line['p_value']:.2f}"
    return ""


def _qualified(table: pd.DataFrame) -> pd.DataFrame:
    """Where the capability is known of some candidates, the others cannot be chosen.

    The upper end of the loss decides; of questions so few that they cannot show a small loss, the loss itself.
    """
    kept = table["mass_kept"] >= LEAST_MASS
    if table["capability_loss"].notna().any():
        shown = can_show_loss(int(table["capability_items"].max()), MOST_LOSS)
        kept &= table["capability_loss_high" if shown else "capability_loss"] <= MOST_LOSS
    return table.assign(qualifies=kept)


def _losses(
    candidates: Sequence[Candidate], scores: pd.DataFrame | None, *, unchanged: str, how: Resampling
) -> pd.DataFrame:
    """The loss of p(correct) of each candidate's worse direction: the one whose interval reaches furthest. [K] lines"""
    names = ["capability_loss", "capability_loss_low", "capability_loss_high"]
    table = pd.DataFrame(np.nan, index=range(len(candidates)), columns=[*names, "capability_items"])
    if scores is None:
        return table
    p = _matrix(scores, "p_balanced")
    categories = np.unique([category_of(str(item)) for item in p.index], return_inverse=True)[1]
    measured = [(k, cell) for k, one in enumerate(candidates) for cell in one.cells.values() if cell in p]
    if not measured:
        return table
    lost = np.column_stack([(p[unchanged] - p[cell]).to_numpy(float) for _, cell in measured])
    clusters = _clusters(scores, p.index)
    found = bootstrap_mean(macro(lost, categories), clusters, within=DIFFERENCE, how=how)
    lines = pd.DataFrame(dict(zip(names, (found.point, found.low, found.high), strict=True)))
    lines["k"] = [k for k, _ in measured]
    worst = lines.sort_values(names[::-1][:1], kind="stable").groupby("k").last()
    table.loc[worst.index, names] = worst[names]
    table["capability_items"] = int(found.n_clusters.max())
    return table


def _side(y: pd.DataFrame, candidates: Sequence[Candidate], *, sign: int, unchanged: str) -> np.ndarray:
    """How far each candidate moves each item in one direction; NaN where it has none there. [N, K]"""
    nothing = np.full(len(y), np.nan)
    moved = [
        sign * (y[one.cells[sign]] - y[unchanged]).to_numpy(float) if sign in one.cells else nothing
        for one in candidates
    ]
    return np.column_stack(moved) if moved else np.empty((len(y), 0))


def _means(values: np.ndarray) -> np.ndarray:
    """Mean over items, NaN where there is none. [N, K] -> [K]"""
    seen = ~np.isnan(values)
    n = seen.sum(axis=0)
    total = np.where(seen, values, 0.0).sum(axis=0)
    return np.divide(total, n, out=np.full(len(n), np.nan), where=n > 0)


def _matrix(scores: pd.DataFrame, column: str) -> pd.DataFrame:
    """One line an item, one column a cell, items sorted. [N, C]"""
    return scores.pivot_table(index="item", columns="cell", values=column, aggfunc="first", dropna=False).sort_index()


def _clusters(scores: pd.DataFrame, items: pd.Index) -> np.ndarray:
    """0-based cluster of each item. [N]"""
    of = scores.drop_duplicates("item").set_index("item")["cluster"]
    return np.unique(of.reindex(items).astype(str), return_inverse=True)[1]
