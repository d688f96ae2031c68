"""Per-item effects: which conditions make one stacking line, and A, T, D and the base alone on each item.

docs/numbers.md 5. Differences are taken item by item and then averaged; the difference of table means is another
quantity on the logit of p. Shapes: N items, L lines, F fits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from caa_bench.analysis.estimates import STANDARD, Estimate, Resampling
from caa_bench.analysis.fits import Design, effect_intervals, fit_means
from caa_bench.analysis.frames import RUN, UNCHANGED, UNSTEERED, VECTOR, Group

LINE = ["base", "base_dose", *VECTOR, "multiplier"]
EFFECTS = ("alone", "base_alone", "on_top", "interaction")
WORDS_KEYS = [*[name for name in RUN if name != "evaluator"], *LINE]
"""What a line of A/B answers and a line of answers in words have in common."""


@dataclass(frozen=True, kw_only=True)
class Lines:
    """The stacking lines of one group: every steered condition on a base other than "none".

    Args:
        keys: columns `LINE`, one line each. [L]
        sign: sign of the multiplier. [L]
        none, vector, base, both: the conditions (none, 0), (none, m), (X, 0) and (X, m) as columns of the group; -1
            where one was not run. [L]
        n_fits: fits of each line, those of (X, m). [L]
    """

    keys: pd.DataFrame
    sign: np.ndarray
    none: np.ndarray
    vector: np.ndarray
    base: np.ndarray
    both: np.ndarray
    n_fits: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Effects:
    """Per-item effects of each line and fit. NaN where one of the cells has no score for the item. [N, L, F]

    Args:
        alone: a = s (y[none, m] - y[none, 0]), s the sign of the multiplier.
        on_top: t = s (y[X, m] - y[X, 0]).
        interaction: d = t - a.
        base_alone: y[X, 0] - y[none, 0], not signed: a negative variant pushes down.
    """

    alone: np.ndarray
    on_top: np.ndarray
    interaction: np.ndarray
    base_alone: np.ndarray


def find_lines(group: Group) -> Lines:
    """Every (base, dose, vector, layer, multiplier) on a base other than "none", with the conditions it is made of."""
    cells = group.cells
    both = np.flatnonzero((cells["base"] != "none") & (cells["multiplier"] != 0))
    keys = cells.iloc[both][LINE].reset_index(drop=True)
    doses = keys[["base", "base_dose"]].itertuples(index=False, name=None)
    steers = keys[[*VECTOR, "multiplier"]].itertuples(index=False, name=None)
    found = [
        (group.find(UNCHANGED), group.find((*UNCHANGED[:2], *steer)), group.find((*dose, *UNSTEERED)))
        for dose, steer in zip(doses, steers, strict=True)
    ]
    none, vector, base = np.array(found, dtype=int).reshape(-1, 3).T
    sign = np.sign(keys["multiplier"].to_numpy(float))
    return Lines(keys=keys, sign=sign, none=none, vector=vector, base=base, both=both, n_fits=group.n_fits[both])


def four_cells(group: Group, column: str, lines: Lines) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One score in (none, 0), (none, m), (X, 0) and (X, m) of each line, by the fits of (X, m). each [N, L, F]"""
    conditions = (lines.none, lines.vector, lines.base, lines.both)
    none, vector, base, both = (group.matched(column, of=one, like=lines.both) for one in conditions)
    return none, vector, base, both


def item_effects(group: Group, column: str, lines: Lines) -> Effects:
    """The effects of every line from one score (log-odds, p, or a judge's score)."""
    none, vector, base, both = four_cells(group, column, lines)
    sign = lines.sign[:, None]
    alone, on_top = sign * (vector - none), sign * (both - base)
    same = np.where(np.isnan(on_top - alone), np.nan, 0.0)  # A, T and D are means over the SAME items
    lone = np.isnan(alone).all(axis=0)  # without (none, m) there is no A; T still stands
    on_top = np.where(lone, on_top, on_top + same)
    return Effects(alone=alone + same, on_top=on_top, interaction=on_top - alone, base_alone=base - none)


def estimated(group: Group, column: str, lines: Lines, *, how: Resampling) -> dict[str, Estimate]:
    """Each effect's mean of one score with its interval."""
    effects, designs = item_effects(group, column, lines), line_designs(group, column, lines, how)
    return {name: effect_intervals(getattr(effects, name), designs[name]) for name in EFFECTS}


def line_designs(group: Group, column: str, lines: Lines, how: Resampling) -> dict[str, Design]:
    """Of each effect: the vector alone differs by its resamples alone, the base alone by its seeds, a stack by both."""
    stack = of_pairs(group, column)[lines.both]
    alone = np.where(stack > 0, np.inf, 0.0)
    parts = {"alone": alone, "base_alone": np.zeros(len(stack)), "on_top": stack, "interaction": stack}
    return {
        name: Design(clusters=group.clusters, n_fits=lines.n_fits, resampling=part, how=how)
        for name, part in parts.items()
    }


def design_of(group: Group, how: Resampling, *, column: str | None = None) -> Design:
    """The design of a group's conditions.

    Args:
        column: the score that is estimated; None where its scale is not that of a mean over items.
    """
    return Design(clusters=group.clusters, n_fits=group.n_fits, resampling=of_pairs(group, column), how=how)


def of_pairs(group: Group, column: str | None) -> np.ndarray:
    """Variance between fits that comes from resampling a vector's pairs, for `Design.resampling`. [C]

    0 for a cell without a vector or whose vector was fitted once (its fits are a finetune's seeds); inf where the
    vector alone differs between fits (a prompt, or the unchanged model: all of the variance). Where a finetune of
    several seeds meets a vector of several resamples, the two cannot be told apart in their sum: the vector's part is
    taken to be the variance of its own effect alone on the unchanged model.
    """
    steers = group.cells[[*VECTOR, "multiplier"]].itertuples(index=False, name=None)
    alone = np.array([group.find((*UNCHANGED[:2], *steer)) for steer in steers], dtype=int)
    bases = group.cells[["base", "base_dose"]].itertuples(index=False, name=None)
    base = np.array([group.find((*dose, *UNSTEERED)) for dose in bases], dtype=int)
    fitted = np.array(["" not in own for own in group.members], dtype=bool)
    trained = (base >= 0) & fitted[base]
    part = np.where((group.cells["multiplier"] == 0) | ((alone >= 0) & ~fitted[alone]), 0.0, np.inf)
    both = trained & (alone >= 0) & fitted[alone] & (part > 0)
    if column is not None and both.any():
        own, still = alone[both], np.full(both.sum(), group.find(UNCHANGED))
        effect = group.matched(column, of=own, like=own) - group.matched(column, of=still, like=own)
        part[both] = between_fits(effect, group.n_fits[own])
    return part


def between_fits(values: np.ndarray, n_fits: np.ndarray) -> np.ndarray:
    """Variance of the fits' means; inf where there are fewer than two. [N, L, F] -> [L]"""
    means = fit_means(values)
    middle = np.nansum(means, axis=1) / n_fits
    square = np.nansum((means - middle[:, None]) ** 2, axis=1)
    known = (n_fits > 1) & ((~np.isnan(means)).sum(axis=1) == n_fits)
    return np.divide(square, n_fits - 1, out=np.full(len(n_fits), np.inf), where=known)


def open_effects(groups: Sequence[Group], *, how: Resampling = STANDARD) -> pd.DataFrame:
    """The effects of stacking.csv on the judge's score (0-1) of answers in words, over the questions asked.

    Args:
        groups: of `answers.answer_scores`.

    Returns:
        `WORDS_KEYS`, the effects with `open_ended_` before their names and `open_ended_n`, one line per stack; signed
        by the multiplier but `base_alone`.
    """
    columns = [*WORDS_KEYS, *Estimate.columns(*(f"open_ended_{name}" for name in EFFECTS)), "open_ended_n"]
    parts = list(_open_parts(groups, how))
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def _open_parts(groups: Sequence[Group], how: Resampling) -> Iterator[pd.DataFrame]:
    for group in groups:
        lines = find_lines(group)
        part = lines.keys.assign(**group.keys)
        if len(part):
            found = estimated(group, "score", lines, how=how)
            for name, one in found.items():
                one.put(part, f"open_ended_{name}")
            yield part.assign(open_ended_n=found["interaction"].n)
