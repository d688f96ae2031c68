"""Does the vector steer every item? Per-item slope over the multiplier, and the share it steers backwards.

After Tan et al. 2024 (steerability): the mean effect hides items whose slope is negative, up to half of a published
data set. Shapes: N items, M multipliers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from caa_bench.analysis.cells import column_mean
from caa_bench.analysis.effects import between_fits, of_pairs
from caa_bench.analysis.estimates import STANDARD, Estimate, Resampling
from caa_bench.analysis.fits import Design, effect_intervals
from caa_bench.analysis.frames import RUN, UNCHANGED, UNSTEERED, VECTOR, Group

CURVE = ["base", "base_dose", *VECTOR]
COLUMNS = [
    *RUN, *CURVE, "n", "multipliers", *Estimate.columns("slope"), "slope_sd", "rank_correlation",
    "anti_steerable_share",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Curve:
    """One dose curve: its keys `RUN` and `CURVE`, its multipliers in order [M] and the log-odds on it [N, M, F].

    `resampling` is that of `fits.Design`, for the slope.
    """

    keys: dict[str, object]
    multipliers: np.ndarray
    y: np.ndarray
    resampling: float


def reliability_table(groups: Sequence[Group], *, how: Resampling = STANDARD) -> pd.DataFrame:
    """One line per base, vector and layer that was run at two or more multipliers (its own 0 included).

    Returns:
        `slope`: mean per-item least-squares slope of the log-odds over the multiplier, with interval and sd;
        `rank_correlation`: mean per-item Spearman correlation (NaN below three multipliers);
        `anti_steerable_share`: share of items whose slope is negative.
    """
    return pd.DataFrame(
        [_curve_line(group, curve, how) for group in groups for curve in _curves(group)], columns=COLUMNS
    )


def item_reliability(groups: Sequence[Group]) -> pd.DataFrame:
    """The same per item, for a per-item view: `RUN`, `CURVE`, `item`, `slope`, `rank_correlation`."""
    parts = []
    for group in groups:
        for curve in _curves(group):
            y = curve.y.mean(axis=2)
            part = pd.DataFrame({"item": group.items, "slope": item_slopes(y, curve.multipliers)})
            parts.append(part.assign(rank_correlation=rank_correlations(y, curve.multipliers), **curve.keys))
    columns = [*RUN, *CURVE, "item", "slope", "rank_correlation"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def _curve_line(group: Group, curve: _Curve, how: Resampling) -> dict[str, object]:
    n_fits = curve.y.shape[2]
    each = np.stack([item_slopes(curve.y[:, :, fit], curve.multipliers) for fit in range(n_fits)], axis=1)  # [N, F]
    part = np.array([curve.resampling])
    design = Design(clusters=group.clusters, n_fits=np.array([n_fits]), resampling=part, how=how)
    found, y = effect_intervals(each[:, None, :], design), curve.y.mean(axis=2)
    slope = item_slopes(y, curve.multipliers)
    seen = slope[~np.isnan(slope)]
    ends = (found.point[0], found.low[0], found.high[0])
    return {
        **curve.keys,
        "n": len(seen),
        "multipliers": len(curve.multipliers),
        **dict(zip(Estimate.columns("slope"), ends, strict=True)),
        "slope_sd": np.std(seen, ddof=1) if len(seen) > 1 else np.nan,
        "rank_correlation": column_mean(rank_correlations(y, curve.multipliers)[:, None])[0],
        "anti_steerable_share": np.mean(seen < 0) if len(seen) else np.nan,
    }


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


def _curves(group: Group) -> Iterator[_Curve]:
    steered, part_of_pairs = group.cells[group.cells["multiplier"] != 0], of_pairs(group, None)
    for _, part in steered.groupby(CURVE, sort=False, dropna=False):
        keys = dict(part.iloc[0][CURVE])
        zero = group.find((keys["base"], keys["base_dose"], *UNSTEERED))
        doses = {**dict(zip(part["multiplier"], part.index, strict=True)), **({0.0: zero} if zero >= 0 else {})}
        if len(doses) > 1:
            order, lead = np.array(sorted(doses)), part.index[0]
            like = np.full(len(order), lead)  # the fits of one condition, so that each fit has a slope of its own
            y = group.matched("log_odds", of=np.array([doses[dose] for dose in order]), like=like)
            resampling = float(part_of_pairs[lead])
            if resampling > 0 and zero >= 0 and "" not in group.members[zero]:  # a finetune of several seeds
                resampling = _slope_spread(group, keys, order)
            own = {**group.keys, **keys}
            yield _Curve(keys=own, multipliers=order, y=y[:, :, : group.n_fits[lead]], resampling=resampling)


def _slope_spread(group: Group, keys: Mapping[str, object], multipliers: np.ndarray) -> float:
    """Variance between fits of the same vector's slope on the unchanged model; inf where it was not run there."""
    steer = tuple(keys[name] for name in VECTOR)
    of = [group.find((*UNCHANGED[:2], *steer, dose) if dose else UNCHANGED) for dose in multipliers]
    lead = of[int(np.argmax(np.abs(multipliers)))]
    if min(of) < 0:
        return np.inf
    y = group.matched("log_odds", of=np.array(of), like=np.full(len(of), lead))
    slopes = np.stack([item_slopes(y[:, :, fit], multipliers) for fit in range(group.n_fits[lead])], axis=1)
    return float(between_fits(slopes[:, None, :], group.n_fits[[lead]])[0])
