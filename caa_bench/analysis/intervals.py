"""Intervals and tests over clusters of items: values [N, E] in, one entry an effect [E] out. NUMBERS.md 6-9.

Shapes: N items, C clusters, E effects, B draws. NaN values are items that were not scored: left out of that effect
and of its `n`.
"""

from __future__ import annotations

from collections.abc import Callable
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
LEVEL = 0.95
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


def studentized(values: np.ndarray, clusters: np.ndarray, *, seed: int = 0, draws: int = DRAWS) -> Intervals:
    """Studentised bootstrap over clusters of the mean over items (unbounded quantities: log-odds, differences).

    Each resample's mean is divided by the same resample's standard error. Where more than 2.5% of the resamples have
    no spread (one odd item among equal ones) the quantiles are infinite and the t interval stands in.
    """
    sums = cluster_sums(values, clusters)
    se = standard_error(sums)
    low, high = _tails(_studentized_draws, sums, seed=seed, draws=draws, levels=(1 - LEVEL) / 2)
    t = stats.t.ppf((1 + LEVEL) / 2, np.maximum(sums.n_clusters - 1, 1))
    low, high = np.where(np.isfinite(low), low, -t), np.where(np.isfinite(high), high, t)
    return _intervals(sums, sums.mean - high * se, sums.mean - low * se, se=se)


def percentile_bca(values: np.ndarray, clusters: np.ndarray, *, seed: int = 0, draws: int = DRAWS) -> Intervals:
    """Percentile bootstrap over clusters, bias-corrected and accelerated where that is defined (levels of p).

    Stays inside the range of the values, so a probability's interval is inside 0-1.
    """
    sums = cluster_sums(values, clusters)
    low, high = _tails(_mean_draws, sums, seed=seed, draws=draws, levels=None)
    return _intervals(sums, low, high, se=standard_error(sums))


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


def fieller(numerator: np.ndarray, denominator: np.ndarray, clusters: np.ndarray) -> Intervals:
    """Interval of mean(numerator) / mean(denominator), both [N, E] over the same items (Fieller 1954, t with C - 1).

    NaN ends where the denominator is not separated from 0 (the set is then unbounded or everything).
    """
    both = np.isnan(numerator) | np.isnan(denominator)
    top = cluster_sums(np.where(both, np.nan, numerator), clusters)
    bottom = cluster_sums(np.where(both, np.nan, denominator), clusters)
    var_t, var_a, cov = _covariance(top, top), _covariance(bottom, bottom), _covariance(top, bottom)
    return fieller_from_moments(
        top=top.mean, bottom=bottom.mean, var_top=var_t, var_bottom=var_a, cov=cov, df=top.n_clusters - 1, sums=top
    )


def fieller_from_moments(
    *,
    top: np.ndarray,
    bottom: np.ndarray,
    var_top: np.ndarray,
    var_bottom: np.ndarray,
    cov: np.ndarray,
    df: np.ndarray,
    sums: ClusterSums,
) -> Intervals:
    """The r with (top - r bottom)^2 <= t^2 var(top - r bottom), from means and their (co)variances. All [E]"""
    t2 = stats.t.ppf((1 + LEVEL) / 2, np.maximum(df, 1e-9)) ** 2
    a, b, c = bottom**2 - t2 * var_bottom, top * bottom - t2 * cov, top**2 - t2 * var_top
    with np.errstate(invalid="ignore", divide="ignore"):
        root = np.sqrt(np.maximum(b**2 - a * c, 0.0))
        bounded = a > 0
        low, high = np.where(bounded, (b - root) / a, np.nan), np.where(bounded, (b + root) / a, np.nan)
        ratio = top / bottom
        slope = np.sqrt(np.maximum(var_top - 2 * ratio * cov + ratio**2 * var_bottom, 0.0)) / np.abs(bottom)
    return _intervals(sums, low, high, se=slope, point=ratio)


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
    return np.sqrt(_covariance(sums, sums))


def _covariance(one: ClusterSums, two: ClusterSums) -> np.ndarray:
    clusters, n = one.n_clusters, one.count.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.where(clusters > 1, clusters / (clusters - 1.0), np.nan) / n**2
    return scale * (one.residual() * two.residual()).sum(axis=1)


def _intervals(
    sums: ClusterSums, low: np.ndarray, high: np.ndarray, *, se: np.ndarray, point: np.ndarray | None = None
) -> Intervals:
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


def _tails(
    draw: Callable[..., np.ndarray], sums: ClusterSums, *, seed: int, draws: int, levels: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper quantile of each effect's draws: at fixed levels, or at its own BCa levels."""
    weights = resample_weights(sums.total.shape[1], seed=seed, draws=draws)
    ends = np.full((2, len(sums.total)), np.nan)
    for part in _chunks(len(sums.total)):
        piece = ClusterSums(total=sums.total[part], count=sums.count[part])
        values = draw(piece, weights)
        if levels is not None:
            with np.errstate(invalid="ignore"):
                ends[:, part] = np.quantile(values, [levels, 1 - levels], axis=1)
        else:
            ends[:, part] = _quantile_each(np.sort(values, axis=1), _bca_levels(values, piece))
    return ends[0], ends[1]


def _mean_draws(sums: ClusterSums, weights: np.ndarray) -> np.ndarray:
    """Mean of each resample. [E, B]"""
    rest = sums.residual()
    scale = power_of_two_above(rest)
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums.mean[:, None] + scale * (on_grid(rest / scale) @ weights) / (sums.count @ weights)


def _studentized_draws(sums: ClusterSums, weights: np.ndarray) -> np.ndarray:
    """(mean* - mean) / se* of each resample. [E, B]"""
    rest, count = sums.residual(), sums.count
    rest = on_grid(rest / power_of_two_above(rest))
    n = count @ weights
    with np.errstate(invalid="ignore", divide="ignore"):
        shift = (rest @ weights) / n
        square = on_grid(rest**2) @ weights - 2 * shift * ((rest * count) @ weights) + shift**2 * (count**2 @ weights)
        clusters = sums.n_clusters[:, None]
        se = np.sqrt(np.maximum(square, 0.0) * clusters / (clusters - 1.0)) / n
        t = shift / np.where(se > 1e-9 * np.abs(shift), se, 0.0)
    return np.where(shift == 0, 0.0, t)


def _bca_levels(values: np.ndarray, sums: ClusterSums) -> np.ndarray:
    """Bias-corrected, accelerated levels (Efron 1987), the plain ones where they are undefined. [2, E]"""
    point = sums.mean[:, None]
    below = ((values < point).mean(axis=1) + (values <= point).mean(axis=1)) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        left_out = (sums.total.sum(1)[:, None] - sums.total) / (sums.count.sum(1)[:, None] - sums.count)
        left_out = np.where(sums.count > 0, left_out, 0.0)
        middle = left_out.sum(axis=1, keepdims=True) / sums.n_clusters[:, None]
        gap = np.where(sums.count > 0, middle - left_out, 0.0)
        bend = (gap**3).sum(axis=1) / (6 * (gap**2).sum(axis=1) ** 1.5)
        z0, z = stats.norm.ppf(below), stats.norm.ppf([[(1 - LEVEL) / 2], [(1 + LEVEL) / 2]])
        levels = stats.norm.cdf(z0 + (z0 + z) / (1 - bend * (z0 + z)))
    plain = np.array([[(1 - LEVEL) / 2], [(1 + LEVEL) / 2]])
    return np.where(np.isfinite(levels) & np.isfinite(z0), levels, plain)


def _quantile_each(ordered: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Linear quantiles of each row [E, B] at its own levels [2, E] -> [2, E]."""
    place = levels * (ordered.shape[1] - 1)
    left = np.floor(place).astype(int)
    right = np.minimum(left + 1, ordered.shape[1] - 1)
    rows = np.arange(len(ordered))
    return ordered[rows, left] + (place - left) * (ordered[rows, right] - ordered[rows, left])
