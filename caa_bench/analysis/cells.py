"""Item scores -> one line a cell: cells.csv. NUMBERS.md 2-4 and 6."""

from __future__ import annotations

import numpy as np
import pandas as pd

from caa_bench.analysis.fits import effect_intervals, sampling
from caa_bench.analysis.frames import CONDITION, RUN, Group, groups
from caa_bench.analysis.macro import macro_fits
from caa_bench.analysis.resample import DRAWS

LOW_MASS = 0.5
SATURATION = 8.0  # log-odds: p within .0003 of 0 or 1

COLUMNS = [
    "cell", *RUN, *CONDITION, "n_fits", "n", "n_clusters", "n_items", "errors", "p_balanced", "p_balanced_low",
    "p_balanced_high", "p_given", "p_swapped", "log_odds", "log_odds_low", "log_odds_high", "option_mass",
    "option_mass_min", "mass_low_share", "p_low_bound", "p_high_bound", "letter_bias", "letter_bias_abs",
    "letter_locked", "saturated_share", "accuracy", "accuracy_low", "accuracy_high",
]  # fmt: skip


def cell_table(item_scores: pd.DataFrame, cells: pd.DataFrame, *, seed: int = 0, draws: int = DRAWS) -> pd.DataFrame:
    """Levels of every cell with intervals over its items.

    Args:
        item_scores: from `items.item_scores`.
        cells: one line a cell, indexed by `cell`, with the columns of `frames.RUN` and `frames.CONDITION`.

    Returns:
        `COLUMNS`, one line a condition, sorted; several fits of one (`n_fits`) are averaged item by item and are part
        of every interval, under the first one's cell. `n` counts scored items, `errors` items in error, `n_items` the
        items of the behavior and split seen in any cell, so `n_items - n - errors` were not asked in this one. Levels
        with an interval (p, log-odds, accuracy) are unweighted means over the items' categories.
        Probabilities 0-1, log-odds in nats; n/a is NaN.
    """
    parts = [_group_table(group, seed=seed, draws=draws) for group in groups(item_scores, cells)]
    return pd.concat(parts, ignore_index=True)[COLUMNS] if parts else pd.DataFrame(columns=COLUMNS)


def _group_table(group: Group, *, seed: int, draws: int) -> pd.DataFrame:
    table = group.cells[["cell", *RUN, *CONDITION]].assign(n_fits=group.n_fits)
    for name, within in (("p_balanced", (0.0, 1.0)), ("log_odds", (-np.inf, np.inf)), ("accuracy", (0.0, 1.0))):
        values = macro_fits(group.stack(name), group.categories)
        level = effect_intervals(values, sampling(group, seed=seed, draws=draws), within=within)
        table[name], table[f"{name}_low"], table[f"{name}_high"] = level.point, level.low, level.high
        if name == "p_balanced":
            table["n"], table["n_clusters"], table["n_items"] = level.n, level.n_clusters, len(group.items)
    table["errors"] = count_errors(group)
    mass, mass_p = group.matrix("option_mass"), group.matrix("mass_p")
    masses, bias, y = (_fit_rows(group.stack(name)) for name in ("option_mass", "letter_bias", "log_odds"))
    table["option_mass"] = column_mean(mass)
    table["option_mass_min"] = _column_min(group.matrix("option_mass_min"))
    table["mass_low_share"] = share_of(masses < LOW_MASS, masses)
    table["p_low_bound"], table["p_high_bound"] = column_mean(mass_p), column_mean(mass_p + 1 - mass)
    table["letter_bias"] = column_mean(group.matrix("letter_bias"))
    table["letter_bias_abs"] = column_mean(np.abs(bias))
    for name in ("p_given", "p_swapped", "letter_locked"):
        table[name] = column_mean(group.matrix(name))
    table["saturated_share"] = share_of(np.abs(y) > SATURATION, y)
    return table


def count_errors(group: Group) -> np.ndarray:
    """Items of each condition in error, in any of its fits. [C]"""
    return np.nansum(np.ceil(group.matrix("error")), axis=0).astype(int)


def column_mean(values: np.ndarray) -> np.ndarray:
    """Mean of each column's finite values; NaN (not 0) for a column without any. [N, C] -> [C]"""
    seen = (~np.isnan(values)).sum(axis=0)
    return np.divide(np.nansum(values, axis=0), seen, out=np.full(len(seen), np.nan), where=seen > 0)


def _column_min(values: np.ndarray) -> np.ndarray:
    low = np.where(np.isnan(values), np.inf, values).min(axis=0, initial=np.inf)
    return np.where(np.isinf(low), np.nan, low)


def _fit_rows(values: np.ndarray) -> np.ndarray:
    """Each fit's items below the last one's: gates count what fits do, not their mean. [N, C, F] -> [F x N, C]"""
    return np.concatenate(list(np.moveaxis(values, 2, 0)))


def share_of(hit: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Share of each column's finite values for which `hit` holds. [N, C] -> [C]"""
    return column_mean(np.where(np.isnan(values), np.nan, hit))
