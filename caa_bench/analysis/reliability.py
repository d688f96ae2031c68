"""Does the vector steer every item? Per-item slope over the multiplier, and the share it steers backwards.

After Tan et al. 2024 (steerability): the mean effect hides items whose slope is negative, up to half of a published
data set. Shapes: N items, M multipliers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from caa_bench.analysis.cells import column_mean
from caa_bench.analysis.effects import STILL, cell_places, find_cell
from caa_bench.analysis.fits import Sampling, effect_intervals
from caa_bench.analysis.frames import RUN, VECTOR, Group, groups
from caa_bench.analysis.resample import DRAWS

CURVE = ["base", "base_dose", *VECTOR]
COLUMNS = [
    *RUN, *CURVE, "n", "multipliers", "slope", "slope_low", "slope_high", "slope_sd", "rank_correlation",
    "anti_steerable_share",
]  # fmt: skip


def reliability_table(
    item_scores: pd.DataFrame, cells: pd.DataFrame, *, seed: int = 0, draws: int = DRAWS
) -> pd.DataFrame:
    """One line per base, vector and layer that was run at two or more multipliers (its own 0 included).

    Returns:
        `slope`: mean per-item least-squares slope of the log-odds over the multiplier, with interval and sd;
        `rank_correlation`: mean per-item Spearman correlation (NaN below three multipliers);
        `anti_steerable_share`: share of items whose slope is negative.
    """
    lines = []
    for group, keys, doses, y in _curves(item_scores, cells):
        each = np.stack([item_slopes(y[:, :, fit], doses) for fit in range(y.shape[2])], axis=1)  # [N, F]
        how = Sampling(
            clusters=group.clusters, n_fits=np.array([y.shape[2]]), resampled=np.array([True]), seed=seed, draws=draws
        )
        found, y = effect_intervals(each[:, None, :], how), y.mean(axis=2)
        slope = item_slopes(y, doses)
        seen = slope[~np.isnan(slope)]
        lines.append(
            {
                **group.keys,
                **keys,
                "n": len(seen),
                "multipliers": len(doses),
                "slope": found.point[0],
                "slope_low": found.low[0],
                "slope_high": found.high[0],
                "slope_sd": np.std(seen, ddof=1) if len(seen) > 1 else np.nan,
                "rank_correlation": column_mean(rank_correlations(y, doses)[:, None])[0],
                "anti_steerable_share": np.mean(seen < 0) if len(seen) else np.nan,
            }
        )
    return pd.DataFrame(lines, columns=COLUMNS)


def item_reliability(item_scores: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """The same per item, for a per-item view: `RUN`, `CURVE`, `item`, `slope`, `rank_correlation`."""
    parts = []
    for group, keys, doses, each in _curves(item_scores, cells):
        y = each.mean(axis=2)
        part = pd.DataFrame({"item": group.items, "slope": item_slopes(y, doses)})
        parts.append(part.assign(rank_correlation=rank_correlations(y, doses), **group.keys, **keys))
    columns = [*RUN, *CURVE, "item", "slope", "rank_correlation"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def item_slopes(y: np.ndarray, multipliers: np.ndarray) -> np.ndarray:
    """Least-squares slope of each item's log-odds [N, M] over the multipliers [M]; NaN if one is missing. [N]"""
    x = multipliers - multipliers.mean()
    return (y * x).sum(axis=1) / (x**2).sum()


def rank_correlations(y: np.ndarray, multipliers: np.ndarray) -> np.ndarray:
    """Spearman correlation of each item's log-odds [N, M] with the multiplier; NaN below three, or if all equal. [N]"""
    if len(multipliers) < 3:
        return np.full(len(y), np.nan)
    x = stats.rankdata(multipliers)
    ranks = stats.rankdata(y, axis=1, nan_policy="propagate")
    x, ranks = x - x.mean(), ranks - ranks.mean(axis=1, keepdims=True)
    spread = np.sqrt((x**2).sum() * (ranks**2).sum(axis=1))
    return np.divide(ranks @ x, spread, out=np.full(len(y), np.nan), where=spread > 0)


def _curves(
    item_scores: pd.DataFrame, cells: pd.DataFrame
) -> Iterator[tuple[Group, dict[str, object], np.ndarray, np.ndarray]]:
    """Each dose curve: its group, its keys, its multipliers in order [M] and the items' log-odds on it [N, M, F]."""
    for group in groups(item_scores, cells):
        place = cell_places(group.cells)
        steered = group.cells[group.cells["multiplier"] != 0]
        for _, part in steered.groupby(CURVE, sort=False, dropna=False):
            keys = dict(part.iloc[0][CURVE])
            zero = find_cell(place, (keys["base"], keys["base_dose"], *STILL), "")
            doses = {**dict(zip(part["multiplier"], part.index, strict=True)), **({0.0: zero} if zero >= 0 else {})}
            if len(doses) > 1:
                order = sorted(doses)
                y = _aligned(group, [doses[dose] for dose in order], like=part.index[0])
                yield group, keys, np.array(order), y


def _aligned(group: Group, columns: Sequence[int], *, like: int) -> np.ndarray:
    """The log-odds of some conditions fit by fit, by the numbers of the fits of one of them: [N, M, F]."""
    everywhere = (np.full(len(group.members), column) for column in columns)
    values = [group.stack("log_odds", of=of)[:, like] for of in everywhere]
    return np.stack(values, axis=1)[:, :, : len(group.members[like])]
