"""Estimates over items AND fits: LoRA seeds or resamples of CAA's pairs, averaged per item. docs/numbers.md 8, 14.

One fit: the bootstrap over clusters of `intervals`. Several: a two-way variance, items + fits (Cameron, Gelbach &
Miller 2011, J. Business & Economic Statistics 29), with Cochran's quantile (1964, Biometrics 20), instead of a
bootstrap over items and fits, which draws from 2-5 fits too few to see their spread. Coverage stands in docs/numbers.md
(`make simulate`).
Shapes: N items, L lines, F fits (unused ones NaN), C clusters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from scipy import stats

from caa_bench.analysis.estimates import STANDARD, TAIL, ClusterSums, Estimate, Resampling, cluster_sums
from caa_bench.analysis.intervals import (
    DIFFERENCE,
    SHARE,
    UNBOUNDED,
    bootstrap_mean,
    bootstrap_ratio,
    estimate,
    loss_ends,
    p_values,
    share_ends,
)

SUBTRACTED_OF_TWO, SUBTRACTED = 0.15, 0.5
"""How much of what item and fit have together is not counted twice, with two fits and with more."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """What every estimate of some lines shares: which items go together, and what their fits are.

    Args:
        clusters: 0-based cluster code of each item. [N]
        n_fits: fits of each line, the first places of its F. [L]
        resampling: variance between fits that comes from drawing the training pairs anew; the rest comes from seeds.
            Bootstrap refits vary around the fitted vector as the fitted vector varies around the true one, so the
            variance of their mean is (1 + 1 / F) s^2; independent seeds give s^2 / F. 0: seeds alone, inf: resamples
            alone. None: 0 everywhere. [L]
        how: seed and draws of the bootstrap.
    """

    clusters: np.ndarray
    n_fits: np.ndarray
    resampling: np.ndarray | None = None
    how: Resampling = STANDARD

    def by_fits(self) -> list[tuple[int, np.ndarray, Design]]:
        """Lines with as many fits, together: how many, which lines, and their own design."""
        parts = []
        for count in np.unique(self.n_fits):
            lines = np.flatnonzero(self.n_fits == count)
            resampling = None if self.resampling is None else self.resampling[lines]
            own = Design(clusters=self.clusters, n_fits=self.n_fits[lines], resampling=resampling, how=self.how)
            parts.append((int(count), lines, own))
        return parts


@dataclass(frozen=True, kw_only=True)
class TwoWay:
    """Mean over items and fits with the variance from each. All [L] but `sums`."""

    sums: ClusterSums
    by_item: np.ndarray
    by_fit: np.ndarray
    df: np.ndarray

    @property
    def variance(self) -> np.ndarray:
        """The variance of the mean over items and fits. [L]"""
        return self.by_item + self.by_fit


def effect_intervals(values: np.ndarray, design: Design, *, within: tuple[float, float] = UNBOUNDED) -> Estimate:
    """Mean over items and fits of each line with its interval. values: [N, L, F]

    Args:
        within: what a value can be; no interval reaches beyond it.
    """

    def of_one(lines: np.ndarray, own: Design) -> Estimate:
        return bootstrap_mean(values[:, lines, 0], own.clusters, within=within, how=own.how)

    def of_several(lines: np.ndarray, own: Design) -> Estimate:
        return _two_way_mean(values[:, lines, : own.n_fits[0]], own, within=within)

    return _by_fits(design, of_one, of_several)


def effect_sums(
    values: np.ndarray, weights: np.ndarray, design: Design, *, within: tuple[float, float] = UNBOUNDED
) -> Estimate:
    """sum(values) / sum(weights) of each line, the mean over its fits, with its interval. both [N, L, F]

    With several fits each item becomes its fit's ratio R plus what the item adds to it, (x - R w) / mean(w): the
    linearized ratio, whose mean over items is R and whose spread is that of R.
    """

    def of_one(lines: np.ndarray, own: Design) -> Estimate:
        return bootstrap_ratio(values[:, lines, 0], weights[:, lines, 0], own.clusters, within=within, how=own.how)

    def of_several(lines: np.ndarray, own: Design) -> Estimate:
        value, weight = (x[:, lines, : own.n_fits[0]] for x in (values, weights))
        known = ~np.isnan(value)
        total = np.where(known, weight, 0.0).sum(axis=0)  # [L, F]
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.where(known, value, 0.0).sum(axis=0) / total
            linear = ratio + (value - ratio * weight) / (total / known.sum(axis=0))
        return _two_way_mean(linear, own, within=within)

    return _by_fits(design, of_one, of_several)


def effect_p_values(values: np.ndarray, design: Design) -> np.ndarray:
    """p of "the mean is 0": `intervals.p_values` with one fit, the two-way t test with several. values: [N, L, F]"""
    p = np.full(len(design.n_fits), np.nan)
    for n_fits, lines, own in design.by_fits():
        part = values[:, lines, :n_fits]
        if n_fits == 1:
            p[lines] = p_values(part[:, :, 0], own.clusters, how=own.how)
            continue
        two = two_way(part, part, own)
        with np.errstate(invalid="ignore", divide="ignore"):
            t = two.sums.mean / np.sqrt(two.variance)
        known = ~np.isnan(estimate(two.sums, t, t, se=np.ones_like(t)).low) & np.isfinite(t)
        p[lines] = np.where(known, 2 * stats.t.sf(np.abs(t), two.df), np.nan)
    return p


def effect_ratios(top: np.ndarray, bottom: np.ndarray, design: Design) -> Estimate:
    """mean(top) / mean(bottom) of each line with its Fieller interval, over the items of both. both [N, L, F]

    The interval holds every r for which a t test does not reject mean(top - r bottom) = 0 (Fieller 1954, J. Royal
    Statistical Society B 16): (T - r A)^2 <= t^2 Var(T - r A), which is a r^2 - 2 b r + c <= 0 with
        a = A^2 - t^2 Var(A),  b = T A - t^2 Cov(T, A),  c = T^2 - t^2 Var(T).
    NaN ends where a <= 0: A is not told apart from 0, and the set has no ends.
    """
    either = np.isnan(top) | np.isnan(bottom)
    top, bottom = np.where(either, np.nan, top), np.where(either, np.nan, bottom)

    def ratio(lines: np.ndarray, own: Design) -> Estimate:
        one, two = (x[:, lines, : own.n_fits[0]] for x in (top, bottom))
        of_top, of_bottom, both = two_way(one, one, own), two_way(two, two, own), two_way(one, two, own)
        t, a_mean = of_top.sums.mean, of_bottom.sums.mean
        with np.errstate(invalid="ignore", divide="ignore"):
            point = t / a_mean
            rest = one - point[:, None] * two  # T - r A, item by item: its variance is that of the ratio
            df = two_way(rest, rest, own).df if own.n_fits[0] > 1 else of_top.sums.n_clusters - 1.0
            quantile = stats.t.ppf(1 - TAIL, np.where(df > 0, df, np.nan)) ** 2
            a = a_mean**2 - quantile * of_bottom.variance
            b = t * a_mean - quantile * both.variance
            c = t**2 - quantile * of_top.variance
            root = np.sqrt(np.maximum(b**2 - a * c, 0.0))
            low, high = np.where(a > 0, (b - root) / a, np.nan), np.where(a > 0, (b + root) / a, np.nan)
            spread = of_top.variance - 2 * point * both.variance + point**2 * of_bottom.variance
            se = np.sqrt(np.maximum(spread, 0.0)) / np.abs(a_mean)
            low, high = np.where(se == 0, point, [low, high])  # nothing varies: no last bits of the root
        return estimate(of_top.sums, low, high, se=se, df=df, point=point)

    return _by_fits(design, ratio, ratio)


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


def two_way(one: np.ndarray, two: np.ndarray, design: Design) -> TwoWay:
    """(Co)variance of the means of two effects [N, L, F] over items and fits; sums are those of the first.

    With r_cf the residual of cluster c in fit f about the overall mean and n the items:
        by_item = C / (C - 1) sum_c (mean_f r_cf)^2 / n^2     items drawn anew, the fits as they are
        by_fit  = sum_f (sum_c r_cf)^2 / (F (F - 1) n^2)      fits drawn anew, the items as they are
        df      those of Cochran's quantile (`cochran_df`)
    What item and fit have together is in both; Cameron, Gelbach & Miller subtract it, `_of_fits_alone` a part of it.
    Items that miss one fit are left out, so that every fit is a mean over the same items. One fit: `by_fit` is 0
    (unknown, and said so beside the verdict).
    """
    n_fits = one.shape[2]
    sums = cluster_sums(one.mean(axis=2), design.clusters)
    first, second = (_residuals(values, design.clusters) for values in (one, two))  # [L, C, F]
    n, c = sums.count.sum(axis=1), sums.n_clusters
    with np.errstate(invalid="ignore", divide="ignore"):
        unbias = np.where(c > 1, c / (c - 1.0), np.nan)
        by_item = unbias * (first.mean(axis=2) * second.mean(axis=2)).sum(axis=1) / n**2
        if n_fits == 1:
            return TwoWay(sums=sums, by_item=by_item, by_fit=np.zeros(len(n)), df=c - 1.0)
        by_fit = (first.sum(axis=1) * second.sum(axis=1)).sum(axis=1) / n**2 / (n_fits * (n_fits - 1))
        by_fit *= np.sqrt(_of_fits_alone(first, sums.count) * _of_fits_alone(second, sums.count))
        if design.resampling is not None:
            # s^2 / F for all, and once more that part of s^2 = F by_fit which is of the pairs: at most all of it.
            between = np.abs(n_fits * by_fit)
            of_pairs = np.divide(
                np.minimum(design.resampling, between), between, out=np.zeros(len(n)), where=between > 0
            )
            by_fit = by_fit * (1 + n_fits * of_pairs)
    df = cochran_df(by_item, np.abs(by_fit), c - 1.0, n_fits - 1.0)
    return TwoWay(sums=sums, by_item=by_item, by_fit=by_fit, df=df)


def _of_fits_alone(residuals: np.ndarray, count: np.ndarray) -> np.ndarray:
    """The share of `by_fit` that is not of item and fit together, which `by_item` has already. [L]

    With e_cf the residual r_cf less its cluster's mean over fits and its fit's share of the cluster:
        together = C / (C - 1) sum_cf e_cf^2 / (F (F - 1) n^2)
    Subtracting all of it leaves intervals that are too short where few fits happen to agree (two resamples: .90),
    subtracting nothing leaves them too long (.98). What is subtracted was found by simulation (`make simulate`).

    Args:
        residuals: [L, C, F]
        count: items of each cluster. [L, C]
    """
    n_fits, n = residuals.shape[2], count.sum(axis=1)
    c = (count > 0).sum(axis=1)
    sums = residuals.sum(axis=1, keepdims=True)  # of each fit, [L, 1, F]
    own = residuals - residuals.mean(axis=2, keepdims=True) - (count / n[:, None])[:, :, None] * sums
    together = c / (c - 1.0) * (own**2).sum(axis=(1, 2))
    whole = (sums[:, 0] ** 2).sum(axis=1)
    part = SUBTRACTED_OF_TWO if n_fits == 2 else SUBTRACTED
    return np.clip(1 - part * np.divide(together, whole, out=np.zeros(len(n)), where=whole > 0), 0.0, 1.0)


def cochran_df(by_item: np.ndarray, by_fit: np.ndarray, of_items: np.ndarray, of_fits: float) -> np.ndarray:
    """Degrees of freedom whose t quantile is Cochran's (1964): the two quantiles, weighted by their variances. [L]

    Two or three fits hardly show their own spread, and Satterthwaite's number is itself drawn from it: where the fits
    happen to agree it is far too large. Coverage with 2 fits: Satterthwaite .88-.96, this .95-.99.
    """
    total = by_item + by_fit
    share = np.divide(by_fit, total, out=np.zeros(len(total)), where=total > 0)
    few, many = stats.t.ppf(1 - TAIL, of_fits), stats.t.ppf(1 - TAIL, np.maximum(of_items, of_fits))
    wanted = share * few + (1 - share) * many
    low, high = np.full(len(total), of_fits), np.maximum(of_items, of_fits).astype(float)
    for _ in range(40):  # the quantile falls with the degrees of freedom
        middle = np.sqrt(low * high)
        short = stats.t.ppf(1 - TAIL, middle) > wanted
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    return np.sqrt(low * high)


def _residuals(values: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Cluster sums of each fit less what the overall mean gives. [N, L, F] -> [L, C, F]"""
    whole = np.where(np.isnan(values).any(axis=2, keepdims=True), np.nan, values)
    fits = [cluster_sums(whole[:, :, fit], clusters) for fit in range(values.shape[2])]
    if len(fits) == 1:
        return fits[0].residual()[:, :, None]
    total = np.stack([sums.total for sums in fits], axis=2)
    mean = np.mean([sums.mean for sums in fits], axis=0)
    return total - np.nan_to_num(mean)[:, None, None] * fits[0].count[:, :, None]


def _two_way_mean(values: np.ndarray, design: Design, *, within: tuple[float, float]) -> Estimate:
    """Mean -+ t SE of lines that all have as many fits; a level of p has a share's interval. values: [N, L, F]"""
    two = two_way(values, values, design)
    se = np.sqrt(two.variance)
    if within == SHARE:
        return estimate(two.sums, *share_ends(two.sums, se, two.df), se=se, df=two.df)
    reach = stats.t.ppf(1 - TAIL, two.df) * se
    low, high = np.clip([two.sums.mean - reach, two.sums.mean + reach], *within)
    found = estimate(two.sums, low, high, se=se, df=two.df)
    return loss_ends(values.mean(axis=2), design.clusters, found) if within == DIFFERENCE else found


def _by_fits(
    design: Design,
    of_one: Callable[[np.ndarray, Design], Estimate],
    of_several: Callable[[np.ndarray, Design], Estimate],
) -> Estimate:
    """Lines with one fit by the one, those with several, as many at a time, by the other."""
    parts = [(lines, (of_one if count == 1 else of_several)(lines, own)) for count, lines, own in design.by_fits()]
    out = {}
    for field in fields(Estimate):
        whole = np.full(len(design.n_fits), np.nan)
        for lines, part in parts:
            whole[lines] = getattr(part, field.name)
        out[field.name] = whole.astype(int) if field.name.startswith("n") else whole
    return Estimate(**out)
