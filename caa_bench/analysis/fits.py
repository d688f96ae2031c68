"""Fit uncertainty: several LoRA seeds or CAA resamples of one condition, averaged per item. NUMBERS.md 14.

One fit: the bootstrap over clusters. Several: two-way variance (items + fits) with Satterthwaite degrees of freedom,
instead of a bootstrap over items and fits, which resamples 2-5 fits too few times to see their spread. Measured
coverage where fits differ by .3 of the items' spread, n = 50, F = 2, 3, 5: two-way .91 .94 .95; bootstrap over both
.84 .90 .92; items alone .75 .79 .85. Shapes: N items, L lines, F fits (unused ones NaN), C clusters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from scipy import special, stats

from caa_bench.analysis.frames import Group
from caa_bench.analysis.intervals import TAIL, Intervals, bootstrap_mean, bootstrap_ratio, guarded, sign_flip
from caa_bench.analysis.ratio import Moments, fieller, fieller_ends
from caa_bench.analysis.resample import DRAWS, ClusterSums, cluster_sums


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """What every estimate of one group shares.

    Args:
        clusters: 0-based cluster code of each item. [N]
        n_fits: fits of each line, the first columns of its F. [L]
        resampled: lines whose fits are resamples of one training set. The mean over fits that are draws of their own
            (seeds) varies by 1 / F of the variance between fits. Resamples spread around the vector of the one
            training set that there is as that vector spreads around the truth, so theirs is 1 + 1 / F times it. [L]
    """

    clusters: np.ndarray
    n_fits: np.ndarray
    resampled: np.ndarray | None = None
    seed: int = 0
    draws: int = DRAWS


def sampling(group: Group, *, seed: int, draws: int) -> Sampling:
    """Of a group's conditions: those with a vector have resamples."""
    steered = (group.cells["vector"] != "").to_numpy()
    return Sampling(clusters=group.clusters, n_fits=group.n_fits, resampled=steered, seed=seed, draws=draws)


@dataclass(frozen=True, kw_only=True)
class TwoWay:
    """Mean over items and fits with the variance from each. All [L] but `sums`."""

    sums: ClusterSums
    by_item: np.ndarray
    by_fit: np.ndarray
    df: np.ndarray


def effect_intervals(
    values: np.ndarray, how: Sampling, *, within: tuple[float, float] = (-np.inf, np.inf)
) -> Intervals:
    """Mean over items and fits of each line with its interval. values: [N, L, F]

    Args:
        within: what a value can be; no interval reaches beyond it.
    """

    def of_one(lines: np.ndarray) -> Intervals:
        return bootstrap_mean(values[:, lines, 0], how.clusters, within=within, seed=how.seed, draws=how.draws)

    def of_several(lines: np.ndarray, n_fits: int) -> Intervals:
        return _two_way_mean(values[:, lines, :n_fits], how, lines, within=within)

    return _by_fits(how, of_one, of_several)


def effect_sums(
    values: np.ndarray, weights: np.ndarray, how: Sampling, *, within: tuple[float, float] = (-np.inf, np.inf)
) -> Intervals:
    """sum(values) / sum(weights) of each line, the mean over its fits, with its interval. both [N, L, F]

    With several fits each item becomes the fit's ratio plus what the item adds to it (linearized).
    """

    def of_one(lines: np.ndarray) -> Intervals:
        own = (values[:, lines, 0], weights[:, lines, 0])
        return bootstrap_ratio(*own, how.clusters, within=within, seed=how.seed, draws=how.draws)

    def of_several(lines: np.ndarray, n_fits: int) -> Intervals:
        value, weight = values[:, lines, :n_fits], weights[:, lines, :n_fits]
        known = ~np.isnan(value)
        total = np.where(known, weight, 0.0).sum(axis=0)  # [L, F]
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.where(known, value, 0.0).sum(axis=0) / total
            linear = ratio + (value - ratio * weight) / (total / known.sum(axis=0))
        return _two_way_mean(linear, how, lines, within=within)

    return _by_fits(how, of_one, of_several)


def _two_way_mean(values: np.ndarray, how: Sampling, lines: np.ndarray, *, within: tuple[float, float]) -> Intervals:
    """Of lines that all have as many fits. values: [N, L, F]"""
    two = two_way(values, values, how.clusters, resampled=_resampled(how, lines))
    se = np.sqrt(two.by_item + two.by_fit)
    low, high = _ends(two.sums.mean, stats.t.ppf(1 - TAIL, two.df) * se, within)
    return guarded(two.sums, low, high, se=se)


def _ends(mean: np.ndarray, reach: np.ndarray, within: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Mean -+ reach; of a share on the scale of its logit, so that near 0 and 1 it leans inward as it should."""
    if within != (0.0, 1.0):
        return np.maximum(mean - reach, within[0]), np.minimum(mean + reach, within[1])
    inside = (mean > 0) & (mean < 1)
    middle = np.where(inside, mean, 0.5)
    turned = reach / (middle * (1 - middle))
    low, high = (special.expit(special.logit(middle) + sign * turned) for sign in (-1, 1))
    return np.where(inside, low, mean), np.where(inside, high, mean)


def effect_p_values(values: np.ndarray, how: Sampling) -> np.ndarray:
    """p of "the mean is 0": sign-flip over clusters with one fit, two-way t test with several. [L]"""
    p = np.full(len(how.n_fits), np.nan)
    for n_fits, lines in _counts(how):
        part = values[:, lines, :n_fits]
        if n_fits == 1:
            p[lines] = sign_flip(part[:, :, 0], how.clusters, seed=how.seed, draws=how.draws)
            continue
        two = two_way(part, part, how.clusters, resampled=_resampled(how, lines))
        with np.errstate(invalid="ignore", divide="ignore"):
            t = two.sums.mean / np.sqrt(two.by_item + two.by_fit)
        found = guarded(two.sums, t, t, se=np.ones_like(t))
        p[lines] = np.where(np.isnan(found.low) | ~np.isfinite(t), np.nan, 2 * stats.t.sf(np.abs(t), two.df))
    return p


def effect_ratios(top: np.ndarray, bottom: np.ndarray, how: Sampling) -> Intervals:
    """mean(top) / mean(bottom) of each line with its Fieller interval, fits included. both [N, L, F]"""

    def of_one(lines: np.ndarray) -> Intervals:
        return fieller(top[:, lines, 0], bottom[:, lines, 0], how.clusters)

    def of_several(lines: np.ndarray, n_fits: int) -> Intervals:
        one, two = top[:, lines, :n_fits], bottom[:, lines, :n_fits]
        either = np.isnan(one) | np.isnan(two)
        pair = (np.where(either, np.nan, one), np.where(either, np.nan, two))
        return _two_way_fieller(*pair, how.clusters, resampled=_resampled(how, lines))

    return _by_fits(how, of_one, of_several)


def fit_means(values: np.ndarray) -> np.ndarray:
    """Each fit's mean over items, the dots of a figure; NaN for a fit that is not there. [N, L, F] -> [L, F]"""
    used = ~np.isnan(values).all(axis=0)  # [L, F]
    whole = (~np.isnan(values) | ~used).all(axis=2, keepdims=True)  # so that every fit is a mean over the same items
    seen = (whole & ~np.isnan(values)).sum(axis=0)
    total = np.nansum(np.where(whole, values, np.nan), axis=0)
    return np.divide(total, seen, out=np.full(seen.shape, np.nan), where=seen > 0)


def fits_disagree(on_top: np.ndarray, *, smallest: float) -> np.ndarray:
    """Whether fits differ in the sign of T, one of them by more than `smallest` (fits that do nothing agree). [L]"""
    means = fit_means(on_top)
    low, high = np.where(np.isnan(means), np.inf, means).min(1), np.where(np.isnan(means), -np.inf, means).max(1)
    return (low < 0) & (high > 0) & (np.maximum(-low, high) >= smallest)


def two_way(one: np.ndarray, two: np.ndarray, clusters: np.ndarray, *, resampled: np.ndarray | None = None) -> TwoWay:
    """(Co)variance of the means of two effects [N, L, F] over items and fits; sums are those of the first.

    Items that miss one fit are left out, so that every fit is a mean over the same items. Adding both variances
    counts the residual twice: at most its share of SE^2, on the safe side.
    """
    n_fits = one.shape[2]
    sums = cluster_sums(one.mean(axis=2), clusters)
    spread = [_residuals(values, clusters) for values in (one, two)]
    n, c = sums.count.sum(axis=1), sums.n_clusters
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.where(c > 1, c / (c - 1.0), np.nan) / n**2
        by_item = scale * (spread[0].mean(axis=2) * spread[1].mean(axis=2)).sum(axis=1)
        by_fit = (spread[0].sum(axis=1) * spread[1].sum(axis=1)).sum(axis=1) / n**2 / (n_fits * (n_fits - 1))
        by_fit = by_fit if resampled is None else np.where(resampled, n_fits + 1, 1) * by_fit
        df = (by_item + by_fit) ** 2 / (by_item**2 / (c - 1.0) + by_fit**2 / (n_fits - 1))
    return TwoWay(sums=sums, by_item=by_item, by_fit=by_fit, df=np.where(np.isfinite(df), df, c - 1.0))


def _residuals(values: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Cluster sums of each fit less what the overall mean gives. [N, L, F] -> [L, C, F]"""
    whole = np.where(np.isnan(values).any(axis=2, keepdims=True), np.nan, values)
    fits = [cluster_sums(whole[:, :, fit], clusters) for fit in range(values.shape[2])]
    total = np.stack([sums.total for sums in fits], axis=2)
    mean = np.mean([sums.mean for sums in fits], axis=0)
    return total - np.nan_to_num(mean)[:, None, None] * fits[0].count[:, :, None]


def _two_way_fieller(top: np.ndarray, bottom: np.ndarray, clusters: np.ndarray, *, resampled: np.ndarray) -> Intervals:
    var_t, var_a = (two_way(one, one, clusters, resampled=resampled) for one in (top, bottom))
    cov = two_way(top, bottom, clusters, resampled=resampled)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = var_t.sums.mean / var_a.sums.mean
    at_ratio = top - ratio[:, None] * bottom
    moments = Moments(
        top=var_t.sums.mean,
        bottom=var_a.sums.mean,
        var_top=var_t.by_item + var_t.by_fit,
        var_bottom=var_a.by_item + var_a.by_fit,
        cov=cov.by_item + cov.by_fit,
        df=two_way(at_ratio, at_ratio, clusters, resampled=resampled).df,
    )
    return fieller_ends(moments, var_t.sums)


def _resampled(how: Sampling, lines: np.ndarray) -> np.ndarray:
    return np.zeros(len(lines), dtype=bool) if how.resampled is None else how.resampled[lines]


def _counts(how: Sampling) -> list[tuple[int, np.ndarray]]:
    return [(int(count), np.flatnonzero(how.n_fits == count)) for count in np.unique(how.n_fits)]


def _by_fits(
    how: Sampling,
    of_one: Callable[[np.ndarray], Intervals],
    of_several: Callable[[np.ndarray, int], Intervals],
) -> Intervals:
    """Lines with one fit by the one, those with several, as many at a time, by the other."""
    parts = [(own, of_one(own) if count == 1 else of_several(own, count)) for count, own in _counts(how)]
    out = {}
    for field in fields(Intervals):
        whole = np.full(len(how.n_fits), np.nan)
        for lines, part in parts:
            whole[lines] = getattr(part, field.name)
        out[field.name] = whole.astype(int) if field.name.startswith("n") else whole
    return Intervals(**out)
