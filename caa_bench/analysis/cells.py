"""Item scores -> one line a cell: its level (cells.csv), how far it moves (shifts.csv), other metrics (metrics.csv).

docs/numbers.md 2-4 and 6.

Shapes: N items, C conditions, F fits, K categories.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from caa_bench.analysis.effects import design_of
from caa_bench.analysis.estimates import STANDARD, Estimate, Resampling
from caa_bench.analysis.fits import effect_intervals, effect_sums
from caa_bench.analysis.frames import CONDITION, RUN, UNCHANGED, UNSTEERED, Group, grouped
from caa_bench.analysis.intervals import DIFFERENCE, SHARE, UNBOUNDED
from caa_bench.storage.row_kinds import METRIC_FIELDS

LOW_MASS = 0.5
SATURATION = 8.0
"""Log-odds: p within .0003 of 0 or 1."""

COLUMNS = [
    "cell", *RUN, *CONDITION, "n_fits", "n", "n_clusters", "n_items", "errors", *Estimate.columns("p_balanced"),
    "p_given", "p_swapped", *Estimate.columns("log_odds"), "option_mass", "option_mass_min", "mass_low_share",
    "p_low_bound", "p_high_bound", "letter_bias", "letter_bias_abs", "letter_locked", "saturated_share",
    *Estimate.columns("accuracy"),
]  # fmt: skip
SHIFT_COLUMNS = [
    "cell", *RUN, *CONDITION, "n_fits", "n", "n_clusters", "log_odds", "p_balanced", "option_mass",
    *Estimate.columns("shift", "shift_p", "total", "total_p"),
]  # fmt: skip

METRIC_COLUMNS = [
    "cell", *RUN, *CONDITION, "n_fits", "task", "metric", "change", "n", "n_clusters", "n_items", "errors", "weight",
    *Estimate.columns("value", "shift", "total"), "n_shift", "n_total",
]  # fmt: skip
SCALES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda mean: mean,
    "perplexity": lambda mean: np.exp(-mean),
    "bits": lambda mean: -mean / np.log(2),
}
"""From sum of values / sum of weights to the metric; of a change, for a perplexity, to a ratio."""


def cell_table(groups: Sequence[Group], *, how: Resampling = STANDARD) -> pd.DataFrame:
    """Levels of every condition with intervals over its items.

    Args:
        groups: of `items.item_scores`.

    Returns:
        `COLUMNS`, one line a condition, sorted; several fits of one (`n_fits`) are averaged item by item and are part
        of every interval, under the first one's cell. `n` counts scored items, `errors` items in error, `n_items` the
        items of the behavior and split seen in any cell, so `n_items - n - errors` were not asked in this one. Levels
        with an interval (p, log-odds, accuracy) are unweighted means over the items' categories.
        Probabilities 0-1, log-odds in nats; n/a is NaN.
    """
    parts = [_group_levels(group, how) for group in groups]
    return pd.concat(parts, ignore_index=True)[COLUMNS] if parts else pd.DataFrame(columns=COLUMNS)


def shift_table(groups: Sequence[Group], *, how: Resampling = STANDARD) -> pd.DataFrame:
    """How far each condition moves, item by item: the lines of a dose curve.

    Returns:
        `SHIFT_COLUMNS`, one line a condition, the mean over its fits. `shift` = y[cell] - y[its base, 0], what the
        vector does there (0 for an unsteered cell); `total` = y[cell] - y[none, 0], what the whole stack does.
        Log-odds, and probability with `_p`; unweighted means over the items' categories; NOT signed by the multiplier;
        NaN where the reference was not run.
    """
    parts = [_group_moves(group, how) for group in groups]
    return pd.concat(parts, ignore_index=True)[SHIFT_COLUMNS] if parts else pd.DataFrame(columns=SHIFT_COLUMNS)


def effect_by_half(groups: Sequence[Group], *, longer: Collection[str], how: Resampling = STANDARD) -> pd.DataFrame:
    """`shift_table` of the items whose matching option is the longer one and of the others: a vector may carry length.

    Args:
        longer: ids of the items whose matching option is the longer one.

    Returns:
        The lines of both, with a column `half`: "longer" or "shorter".
    """
    parts = []
    for half, wanted in (("longer", True), ("shorter", False)):
        some = [group.of_items(group.items.isin(list(longer)) == wanted) for group in groups]
        parts.append(shift_table(some, how=how).assign(half=half))
    return pd.concat(parts, ignore_index=True)


def metric_table(rows: Sequence[Mapping[str, Any]], cells: pd.DataFrame, *, how: Resampling = STANDARD) -> pd.DataFrame:
    """The level of every metric in every cell, and its change, item by item: what is measured beside the behavior.

    Items weigh as many units as their value is a sum over, so that a level is a ratio of sums: a perplexity is
    exp(-sum of log p / sum of tokens) over all passages, and an accuracy the plain mean.

    Args:
        rows: dicts of `row_kinds.METRIC_FIELDS`.
        cells: one line a cell, indexed by `cell`, with the columns of `frames.RUN` and `frames.CONDITION`.

    Returns:
        `METRIC_COLUMNS`, sorted by task, metric and condition. `change` says what `shift` (from the cell's own base
        unsteered) and `total` (from the unchanged model) are: a `ratio` for a perplexity, a `difference` else; over the
        items that
        have a value on both sides, `n_shift` and `n_total`. `n` counts items with a value, `errors` those in error,
        `weight` their units (tokens of a perplexity). NaN where nothing was measured, and intervals below 20 items.
    """
    frame = pd.DataFrame([dict(row) for row in rows], columns=list(METRIC_FIELDS))
    parts = []
    for (task, metric, aggregation), own in frame.groupby(["task", "metric", "aggregation"], sort=True):
        scores = own.assign(error=own["error"].notna())
        measured = cells[cells["evaluator"].isin(cells.loc[cells.index.isin(own["cell"]), "evaluator"])]
        for group in grouped(scores, measured):
            parts.append(_metric_lines(group, aggregation, how).assign(task=task, metric=metric))
    return pd.concat(parts, ignore_index=True)[METRIC_COLUMNS] if parts else pd.DataFrame(columns=METRIC_COLUMNS)


def references(group: Group) -> dict[str, np.ndarray]:
    """The column each condition is compared with: `shift` its own base unsteered, `total` the unchanged model. [C]"""
    bases = group.cells[["base", "base_dose"]].itertuples(index=False, name=None)
    still = np.array([group.find((*base, *UNSTEERED)) for base in bases], dtype=int)
    return {"shift": still, "total": np.full(len(still), group.find(UNCHANGED))}


def moved(group: Group, column: str) -> dict[str, np.ndarray]:
    """`shift` and `total` of one score on each item: its value less that of the reference. each [N, C, F]"""
    own = np.arange(len(group.members))
    values = group.by_fit(column)
    return {name: values - group.matched(column, of=of, like=own) for name, of in references(group).items()}


def _group_levels(group: Group, how: Resampling) -> pd.DataFrame:
    table = group.cells[["cell", *RUN, *CONDITION]].assign(n_fits=group.n_fits, errors=count_errors(group))
    for name, within in (("log_odds", UNBOUNDED), ("accuracy", SHARE), ("p_balanced", SHARE)):
        values = macro(group.by_fit(name), group.categories)
        level = effect_intervals(values, design_of(group, how, column=name), within=within)
        level.put(table, name)
    table["n"], table["n_clusters"], table["n_items"] = level.n, level.n_clusters, len(group.items)
    for name in ("option_mass", "letter_bias", "p_given", "p_swapped", "letter_locked"):
        table[name] = column_mean(group.mean(name))
    mass, mass_p = group.mean("option_mass"), group.mean("mass_p")
    table["p_low_bound"], table["p_high_bound"] = column_mean(mass_p), column_mean(mass_p + 1 - mass)
    lowest = group.mean("option_mass_min")
    smallest = np.where(np.isnan(lowest), np.inf, lowest).min(axis=0, initial=np.inf)
    table["option_mass_min"] = np.where(np.isinf(smallest), np.nan, smallest)
    # Gates count what each fit does, not their mean: fits stand below each other as if they were items.
    masses, bias, y = (_fits_below(group.by_fit(name)) for name in ("option_mass", "letter_bias", "log_odds"))
    table["mass_low_share"] = share_of(masses < LOW_MASS, masses)
    table["letter_bias_abs"] = column_mean(np.abs(bias))
    table["saturated_share"] = share_of(np.abs(y) > SATURATION, y)
    return table


def _group_moves(group: Group, how: Resampling) -> pd.DataFrame:
    table = group.cells[["cell", *RUN, *CONDITION]].assign(n_fits=group.n_fits)
    table["option_mass"] = column_mean(group.mean("option_mass"))
    for score, suffix, within in (("p_balanced", "_p", DIFFERENCE), ("log_odds", "", UNBOUNDED)):
        table[score] = column_mean(macro(group.mean(score), group.categories))
        for name, values in moved(group, score).items():
            moves, design = macro(values, group.categories), design_of(group, how, column=score)
            found = effect_intervals(moves, design, within=within)
            found.put(table, f"{name}{suffix}")
            table["n"], table["n_clusters"] = found.n, found.n_clusters
    return table


def _metric_lines(group: Group, aggregation: str, how: Resampling) -> pd.DataFrame:
    """The lines of one task and metric."""
    table = group.cells[["cell", *RUN, *CONDITION]].assign(n_fits=group.n_fits, errors=count_errors(group))
    value, weight, design = group.by_fit("value"), group.by_fit("weight"), design_of(group, how)
    level = effect_sums(value, weight, design, within=_bounds(value, aggregation))
    table["change"] = "ratio" if aggregation == "perplexity" else "difference"
    table["n"], table["n_clusters"], table["n_items"] = level.n, level.n_clusters, len(group.items)
    table["weight"] = np.where(np.isnan(group.mean("value")), 0.0, group.mean("weight")).sum(axis=0)
    with np.errstate(over="ignore"):  # of a model that says nothing like it: inf, which is what it is
        level.transformed(SCALES[aggregation]).put(table, "value")
        heavier = moved(group, "weight")
        for name, change in moved(group, "value").items():
            if ((heavier[name] != 0) & ~np.isnan(change)).any():
                raise ValueError("an item weighs differently in two cells: their difference means nothing")
            found = effect_sums(change, weight, design)
            table[f"n_{name}"] = found.n
            found.transformed(SCALES[aggregation]).put(table, name)
    return table


def _bounds(value: np.ndarray, aggregation: str) -> tuple[float, float]:
    """Between 0 and 1 where no item's value lies outside, as of an accuracy; nothing is known of other metrics."""
    bounded = aggregation == "mean" and np.nanmin(value, initial=0.0) >= 0 and np.nanmax(value, initial=1.0) <= 1
    return SHARE if bounded else UNBOUNDED


def count_errors(group: Group) -> np.ndarray:
    """Items of each condition in error, in any of its fits. [C]"""
    return np.nansum(np.ceil(group.mean("error")), axis=0).astype(int)


def column_mean(values: np.ndarray) -> np.ndarray:
    """Mean over items of the finite values; NaN (not 0) where there is none. [N, ...] -> [...]"""
    seen = (~np.isnan(values)).sum(axis=0)
    return np.divide(np.nansum(values, axis=0), seen, out=np.full(seen.shape, np.nan), where=seen > 0)


def share_of(hit: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Share of the finite values over items for which `hit` holds. [N, ...] -> [...]"""
    return column_mean(np.where(np.isnan(values), np.nan, hit))


def _fits_below(values: np.ndarray) -> np.ndarray:
    """[N, C, F] -> [F x N, C]"""
    return np.concatenate(list(np.moveaxis(values, 2, 0)))


def macro(values: np.ndarray, categories: np.ndarray) -> np.ndarray:
    """Values whose plain mean over items is the unweighted mean over categories, as the paper averages MMLU.

    With weights w of mean 1 and the macro average M, an item becomes M + w (x - M): the linearized weighted mean, so
    that its spread is that of the average and not of the categories' sizes. One category, or categories of one size,
    leave the values as they are.

    Args:
        values: NaN where an item has no score; a category without any in a cell does not count there. [N, C] or
            [N, C, F], each fit by itself.
        categories: 0-based category of each item. [N]
    """
    if values.ndim == 3:
        return np.stack([macro(values[:, :, fit], categories) for fit in range(values.shape[2])], axis=2)
    alike = np.unique(np.bincount(categories)).size <= 1
    if alike and not np.isnan(values).any():
        return values
    member = categories[:, None] == np.arange(categories.max(initial=0) + 1)  # [N, K]
    seen = ~np.isnan(values)
    sizes = member.T.astype(float) @ seen  # [K, C] items seen of each category
    used = (sizes > 0).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = seen.sum(axis=0) / (used * sizes[categories])
        middle = np.nansum(weights * values, axis=0) / seen.sum(axis=0)
    return np.where(weights == 1, values, middle + weights * (values - middle))
