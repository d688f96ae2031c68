"""Intervals and tests over clusters of items: values [N, E] in, one entry an effect [E] out. NUMBERS.md 6-9.

Shapes: N items, C clusters, E effects, B draws. NaN values are items that were not scored: left out of that effect
and of its `n`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from caa_bench.analysis.resample import (
    DRAWS,
    ClusterSums,
    cluster_sums,
    on_grid,
    power_of_two_above,
    resample_weights,
    sign_flips,
)

MIN_ITEMS = 20
MIN_CLUSTERS = 10
TAIL = 0.025
COLLAPSED = 0.25  # of the spread: a resample with less of it has lost the items that make the uncertainty
COLLAPSE_SHARE = 0.025
CHUNK = 64  # effects computed at once: 64 x 9,999 draws are 5 MB, so memory does not grow with the sweep


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """Means with their intervals.

    Args:
        point: mean over items; NaN without items. [E]
        low / high: the interval; NaN below `MIN_ITEMS` items or `MIN_CLUSTERS` clusters, the point where all values
            are equal. [E]
        se: standard error over clusters. [E]
        n / n_clusters: items and clusters behind each effect. [E]
    """

    point: np.ndarray
    low: np.ndarray
    high: np.ndarray
    se: np.ndarray
    n: np.ndarray
    n_clusters: np.ndarray


def bootstrap_mean(
    values: np.ndarray,
    clusters: np.ndarray,
    *,
    within: tuple[float, float] = (-np.inf, np.inf),
    seed: int = 0,
    draws: int = DRAWS,
) -> Intervals:
    """Studentised bootstrap over clusters of the mean over items; BCa where resamples lose the spread.

    Each resample's mean is divided by the same resample's standard error. Where a few odd items carry all the spread
    (a LoRA at the ceiling with two items left over), more than `COLLAPSE_SHARE` of the resamples miss nearly all of
    it and the studentised end would run to half of 0-1: there the BCa interval stands in. Measured at n = 50 near a
    ceiling (mean p .90): studentised .95, BCa .93, percentile .91 coverage; so levels of p use this too.

    Args:
        values: one column an effect, NaN where an item has no score. [N, E]
        clusters: 0-based cluster code of each item. [N]
        within: the range the mean can have; a probability's interval is cut at 0 and 1.
    """
    return _bootstrap(cluster_sums(values, clusters), within=within, seed=seed, draws=draws)


def bootstrap_ratio(
    values: np.ndarray,
    shares: np.ndarray,
    clusters: np.ndarray,
    *,
    within: tuple[float, float] = (-np.inf, np.inf),
    seed: int = 0,
    draws: int = DRAWS,
) -> Intervals:
    """The same for a ratio of sums, sum(values) / sum(shares): log-probability a token over passages of any length.

    The standard error is that of the linearized ratio, over clusters.

    Args:
        values: one column an effect, NaN where an item has no score. [N, E]
        shares: whole numbers, what each value is a sum over. [N, E]
        clusters: 0-based cluster code of each item. [N]
    """
    scale = power_of_two_above(
        np.nan_to_num(shares).reshape(1, -1)
    ).item()  # at most 1, so that sums over resamples stay exact
    sums = cluster_sums(values / scale, clusters, shares=shares / scale)
    return _bootstrap(sums, within=within, seed=seed, draws=draws)


def _bootstrap(sums: ClusterSums, *, within: tuple[float, float], seed: int, draws: int) -> Intervals:
    weights = resample_weights(sums.total.shape[1], seed=seed, draws=draws)
    se = standard_error(sums)
    first, back = _distinct(sums)  # "CAA alone" is the same column on every base: resampled once
    ends = np.full((2, len(se)), np.nan)
    first = first[enough(sums)[first] & (se[first] > 0)]
    for part in _chunks(len(first)):
        ends[:, first[part]] = _ends(sums.select(first[part]), weights)
    return guarded(sums, *np.clip(ends[:, back], *within), se=se)


def bca_mean(values: np.ndarray, clusters: np.ndarray, *, seed: int = 0, draws: int = DRAWS) -> Intervals:
    """Bias-corrected and accelerated percentile bootstrap over clusters; plain percentile where that is undefined."""
    sums = cluster_sums(values, clusters)
    low, high = _bca_ends(sums, resample_weights(sums.total.shape[1], seed=seed, draws=draws))
    return guarded(sums, low, high, se=standard_error(sums))


def sign_flip(values: np.ndarray, clusters: np.ndarray, *, seed: int = 0, draws: int = DRAWS) -> np.ndarray:
    """Two-sided p of "the mean is 0": (1 + hits) / (1 + draws) over random signs of whole clusters. [E]

    NaN where there are too few items or all values are equal.
    """
    sums = cluster_sums(values, clusters)
    signs = sign_flips(sums.total.shape[1], seed=seed, draws=draws)
    p = np.full(len(sums.total), np.nan)
    for part in _chunks(len(p)):
        total = on_grid(sums.total[part] / power_of_two_above(sums.total[part]))
        hits = (np.abs(total @ signs) >= np.abs(total.sum(axis=1, keepdims=True))).sum(axis=1)
        p[part] = (1 + hits) / (1 + draws)
    return np.where(enough(sums) & (standard_error(sums) > 0), p, np.nan)


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """q-values of one family; NaN p-values are no tests: they stay NaN and do not count."""
    q = np.full(len(p), np.nan)
    tested = ~np.isnan(p)
    if tested.any():
        q[tested] = stats.false_discovery_control(p[tested])
    return q


def enough(sums: ClusterSums) -> np.ndarray:
    """Whether an interval is given at all. [E]"""
    return (sums.n >= MIN_ITEMS) & (sums.n_clusters >= MIN_CLUSTERS)


def standard_error(sums: ClusterSums) -> np.ndarray:
    """Standard error of the mean over items, from the spread of clusters. NaN with fewer than two clusters. [E]"""
    return np.sqrt(covariance(sums, sums))


def covariance(one: ClusterSums, two: ClusterSums) -> np.ndarray:
    """Covariance of two means over the same items, from the spread of clusters. [E]"""
    clusters, n = one.n_clusters, one.weight.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.where(clusters > 1, clusters / (clusters - 1.0), np.nan) / n**2
    return scale * (one.residual() * two.residual()).sum(axis=1)


def guarded(
    sums: ClusterSums, low: np.ndarray, high: np.ndarray, *, se: np.ndarray, point: np.ndarray | None = None
) -> Intervals:
    """The ends where there is enough data for them, the point where nothing varies."""
    middle = sums.mean if point is None else point
    flat, ok = se == 0, enough(sums)
    low, high = np.where(flat, middle, low), np.where(flat, middle, high)
    return Intervals(
        point=middle,
        low=np.where(ok, low, np.nan),
        high=np.where(ok, high, np.nan),
        se=se,
        n=sums.n,
        n_clusters=sums.n_clusters,
    )


def _chunks(size: int) -> list[slice]:
    return [slice(start, start + CHUNK) for start in range(0, size, CHUNK)]


def _distinct(sums: ClusterSums) -> tuple[np.ndarray, np.ndarray]:
    """Index of the first of each distinct effect [U], and for every effect the first that equals it [E]."""
    both = np.hstack([sums.total, sums.count, sums.weight])
    _, first, back = np.unique(both, axis=0, return_index=True, return_inverse=True)
    return first, first[back.reshape(len(both))]


def _ends(sums: ClusterSums, weights: np.ndarray) -> np.ndarray:
    """Low and high of each effect: studentised, or BCa where that breaks down. [2, E]"""
    t, collapsed = _studentized_draws(sums, weights)
    se = standard_error(sums)
    with np.errstate(invalid="ignore"):
        low, high = np.quantile(t, [TAIL, 1 - TAIL], axis=1)
        ends = np.array([sums.mean - high * se, sums.mean - low * se])
    broken = (collapsed > COLLAPSE_SHARE) | ~np.isfinite(ends).all(axis=0)
    if broken.any():
        ends[:, broken] = _bca_ends(sums.select(broken), weights)
    return ends


def _bca_ends(sums: ClusterSums, weights: np.ndarray) -> np.ndarray:
    means = _mean_draws(sums, weights)
    return _quantile_each(np.sort(means, axis=1), _bca_levels(means, sums))


def _mean_draws(sums: ClusterSums, weights: np.ndarray) -> np.ndarray:
    """Mean of each resample. [E, B]"""
    rest = sums.residual()
    scale = power_of_two_above(rest)
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums.mean[:, None] + scale * (on_grid(rest / scale) @ weights) / (sums.weight @ weights)


def _studentized_draws(sums: ClusterSums, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean* - mean) / se* of each resample [E, B], and the share of resamples whose se* collapsed [E]."""
    rest, count = sums.residual(), sums.weight
    rest = on_grid(rest / power_of_two_above(rest))
    n = count @ weights
    clusters = sums.n_clusters[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        shift = (rest @ weights) / n
        square = on_grid(rest**2) @ weights - 2 * shift * (on_grid(rest * count) @ weights)
        square += shift**2 * (on_grid(count**2) @ weights)
        se = np.sqrt(np.maximum(square, 0.0) * clusters / (clusters - 1.0)) / n
        whole = np.sqrt((rest**2).sum(axis=1, keepdims=True) * clusters / (clusters - 1.0))
        collapsed = (se * count.sum(axis=1, keepdims=True) < COLLAPSED * whole).mean(axis=1)
        t = np.where(shift == 0, 0.0, shift / se)
    return t, collapsed


def _bca_levels(values: np.ndarray, sums: ClusterSums) -> np.ndarray:
    """Bias-corrected, accelerated levels (Efron 1987), the plain ones where they are undefined. [2, E]"""
    point = sums.mean[:, None]
    below = ((values < point).mean(axis=1) + (values <= point).mean(axis=1)) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        left_out = (sums.total.sum(1)[:, None] - sums.total) / (sums.weight.sum(1)[:, None] - sums.weight)
        left_out = np.where(sums.count > 0, left_out, 0.0)
        middle = left_out.sum(axis=1, keepdims=True) / sums.n_clusters[:, None]
        gap = np.where(sums.count > 0, middle - left_out, 0.0)
        bend = (gap**3).sum(axis=1) / (6 * (gap**2).sum(axis=1) ** 1.5)
        z0, z = stats.norm.ppf(below), stats.norm.ppf([[TAIL], [1 - TAIL]])
        levels = stats.norm.cdf(z0 + (z0 + z) / (1 - bend * (z0 + z)))
    plain = np.array([[TAIL], [1 - TAIL]])
    return np.where(np.isfinite(levels) & np.isfinite(z0), levels, plain)


def _quantile_each(ordered: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Linear quantiles of each row [E, B] at its own levels [2, E] -> [2, E]."""
    place = levels * (ordered.shape[1] - 1)
    left = np.floor(place).astype(int)
    right = np.minimum(left + 1, ordered.shape[1] - 1)
    rows = np.arange(len(ordered))
    return ordered[rows, left] + (place - left) * (ordered[rows, right] - ordered[rows, left])
