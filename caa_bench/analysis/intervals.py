"""Intervals and tests over clusters of items: values [N, E] in, one entry an effect [E] out. docs/numbers.md 6-9.

Shapes: N items, C clusters, E effects, B draws. NaN values are items that were not scored: left out of that effect
and of its `n`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import stats

from caa_bench.analysis.estimates import (
    MIN_CLUSTERS,
    MIN_ITEMS,
    STANDARD,
    TAIL,
    ClusterSums,
    Estimate,
    Interval,
    Resampling,
    cluster_sums,
)

UNBOUNDED = (-np.inf, np.inf)
SHARE = (0.0, 1.0)
"""What a level of p can be."""
DIFFERENCE = (-1.0, 1.0)
"""What a difference of two probabilities can be."""
COLLAPSED = 0.25
"""Below 25% of the observed spread a resample's studentized value is unreliable: it divides by almost nothing."""
COLLAPSE_SHARE = 0.025
"""With more of the resamples collapsed than one tail holds, the studentized end itself would be such a value."""
CHUNK = 64
"""Effects computed at once: 64 x 9,999 draws are 5 MB, so memory does not grow with the sweep."""
TIE = 1e-9
"""Relative difference up to which a flipped sum counts as equal to the observed one: sums round in their last bits."""
CARRIERS = 1.5
"""With fewer clusters than that holding all of the spread no interval of an unbounded mean is given."""
FEW = 60
"""Below so many clusters an interval is longer on the side of a long tail (`skewed`)."""
SKEWED = 2.0
"""Sample skewness, in size: of normal samples of 20 hardly one in a thousand is beyond it."""
MORE = 2.6
"""By so much more than the bootstrap's, at 20 clusters."""
OFF_BOUND = 5.0
"""Items' worth of probability away from 0 or 1: with less, what was not drawn counts (`share_ends`, `loss_ends`)."""


def bootstrap_mean(
    values: np.ndarray, clusters: np.ndarray, *, within: tuple[float, float] = UNBOUNDED, how: Resampling = STANDARD
) -> Estimate:
    """Mean over items with an interval over clusters: the outer ends of a bootstrap and of Student's t.

    The bootstrap of an unbounded mean is the studentized one (Davison & Hinkley 1997, Bootstrap Methods and their
    Application, chapter 5), with clusters as the sampling unit: each resample's error is divided by the same resample's
    standard error, and the quantiles of that ratio replace those of t. It follows skew, where t fails, and is too short
    under heavy tails, where t holds; the outer ends cover in both (`make simulate`). Where a few odd items carry the
    spread, more than `COLLAPSE_SHARE` of the resamples miss nearly all of it and that end would run far out: there the
    BCa interval (Efron 1987) stands in. A difference of two p has no such tails: its bootstrap is always BCa, and where
    little changes it reaches at least as far as a share's interval (`loss_ends`): items that change may not be among
    those seen. A level of p is a share, with a share's interval (`share_ends`), which needs no bootstrap.
    An unbounded mean has no interval where one cluster carries all of the spread (`carried_by_one`); fewer than 60
    that are skewed have an end further out on the long tail's side (`skewed`).

    Args:
        values: one column an effect, NaN where an item has no score. [N, E]
        clusters: 0-based cluster code of each item. [N]
        within: the range the mean can have, which cuts its interval: (0, 1) for a level of p, (-1, 1) for a difference.
    """
    found = _bootstrap(cluster_sums(values, clusters), within=within, how=how)
    return loss_ends(values, clusters, found) if within == DIFFERENCE else found


def bootstrap_ratio(
    values: np.ndarray,
    shares: np.ndarray,
    clusters: np.ndarray,
    *,
    within: tuple[float, float] = UNBOUNDED,
    how: Resampling = STANDARD,
) -> Estimate:
    """The same for a ratio of sums, sum(values) / sum(shares): log-probability a token over passages of any length.

    The standard error is that of the linearized ratio, over clusters.

    Args:
        values: one column an effect, NaN where an item has no score. [N, E]
        shares: whole numbers, what each value is a sum over. [N, E]
        clusters: 0-based cluster code of each item. [N]
    """
    return _bootstrap(cluster_sums(values, clusters, shares=shares), within=within, how=how)


def sign_flip(values: np.ndarray, clusters: np.ndarray, *, how: Resampling = STANDARD) -> np.ndarray:
    """Two-sided p of "the mean is 0": (1 + hits) / (1 + draws) over random signs of whole clusters. [E]

    If the effect is symmetric about 0, turning a cluster's sign gives data that were as likely; a hit is a set of signs
    whose sum is at least as far from 0 as the observed one (Fisher 1935; the added 1 counts the data themselves, so
    that p is valid at any number of draws: Phipson & Smyth 2010). NaN where there are too few items or all values are
    equal.
    """
    sums = cluster_sums(values, clusters)
    signs = how.signs(sums.total.shape[1])
    observed = np.abs(sums.total.sum(axis=1, keepdims=True))
    hits = np.zeros(len(sums.total), dtype=int)
    for part in _chunks(len(hits)):
        hits[part] = (np.abs(_over_clusters(sums.total[part], signs)) >= observed[part] * (1 - TIE)).sum(axis=1)
    p = (1 + hits) / (1 + how.draws)
    return np.where(enough(sums) & (standard_error(sums) > 0), p, np.nan)


def p_values(values: np.ndarray, clusters: np.ndarray, *, how: Resampling = STANDARD) -> np.ndarray:
    """Two-sided p of "the mean is 0", of two tests the larger: sign flips and the studentized bootstrap. [E]

    Sign flips suppose a symmetric spread and reject a true 0 in .14 of samples of 50 under a skew of 6; the bootstrap
    follows skew and rejects too often under heavy tails, where the flips hold: as with the interval's ends. NaN where
    there is no interval.

    Args:
        values: one column an effect, NaN where an item has no score. [N, E]
        clusters: 0-based cluster code of each item. [N]
    """
    sums = cluster_sums(values, clusters)
    weights, se = how.weights(sums.total.shape[1]), standard_error(sums)
    tested = np.flatnonzero(enough(sums) & (se > 0) & ~carried_by_one(sums))
    side, longer = skewed(sums)
    unlike = side * sums.mean < 0  # the long tail lies towards 0, and beyond it
    ratio = np.divide(sums.mean, np.where(unlike, longer, 1.0) * se, out=np.zeros(len(se)), where=se > 0)
    p = np.full(len(se), np.nan)
    for part in _chunks(len(tested)):
        some = sums.select(tested[part])
        t, collapsed = _studentized_draws(some, weights)
        seen = ratio[tested[part]][:, None]
        beyond = np.minimum((t >= seen).sum(axis=1), (t <= seen).sum(axis=1))
        found = 2 * (1 + beyond) / (1 + how.draws)
        broken = collapsed > COLLAPSE_SHARE  # where BCa gives the ends, it gives p (`_bootstrap_ends`)
        if broken.any():
            plain = 2 * stats.t.sf(np.abs(seen[broken, 0]), some.n_clusters[broken] - 1.0)
            at = -(seen[:, 0] * se[tested[part]])[broken]
            found[broken] = np.maximum(plain, _bca_p(some.select(broken), weights, at=at))
        p[tested[part]] = found
    return np.minimum(np.maximum(p, sign_flip(values, clusters, how=how)), 1.0)


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """q-values of one family (Benjamini & Hochberg 1995); NaN p-values are no tests: they stay NaN and do not count."""
    q = np.full(len(p), np.nan)
    tested = ~np.isnan(p)
    if tested.any():
        q[tested] = stats.false_discovery_control(p[tested])
    return q


def standard_error(sums: ClusterSums) -> np.ndarray:
    """Cluster-robust standard error of the mean over items. NaN with fewer than two clusters. [E]

    With r_c the residual of cluster c and n the items, Var(mean) = C / (C - 1) sum_c r_c^2 / n^2: the sum of squares
    of whole clusters keeps whatever correlation the items of one cluster have, C / (C - 1) removes the bias of taking
    residuals from the estimated mean
    (Cameron & Miller 2015, J. Human Resources 50).
    """
    clusters, n = sums.n_clusters, sums.weight.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.where(clusters > 1, clusters / (clusters - 1.0), np.nan) / n**2
    return np.sqrt(scale * (sums.residual() ** 2).sum(axis=1))


def enough(sums: ClusterSums) -> np.ndarray:
    """Whether an interval is given at all. [E]"""
    return (sums.n >= MIN_ITEMS) & (sums.n_clusters >= MIN_CLUSTERS)


def carried_by_one(sums: ClusterSums) -> np.ndarray:
    """Whether one cluster holds all of the spread: (sum r^2)^2 / sum r^4, n / 3 of a normal sample, is < 1.5. [E]"""
    square = sums.residual() ** 2
    fourth = (square**2).sum(axis=1)
    return np.divide(square.sum(axis=1) ** 2, fourth, out=np.zeros(len(fourth)), where=fourth > 0) < CARRIERS


def skewed(sums: ClusterSums) -> tuple[np.ndarray, np.ndarray]:
    """Which way fewer than 60 clusters are skewed, and how much longer an interval is there. each [E]

    From a population with a skew of 6 samples of 20 have intervals that cover .85: what makes the mean is seldom drawn,
    and it lies on the long tail's side. Where the sample skewness is beyond `SKEWED` in size, the end on that side is
    moved out by a factor that makes these cover: 3.6 at 20 clusters, 2.5 at 30, 1.2 at 50 (`make simulate`).

    Returns:
        The side, +1 or -1; 0 where nothing is moved. The factor.
    """
    rest, n = sums.residual(), np.maximum(sums.n_clusters, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        second, third = (rest**2).sum(axis=1) / n, (rest**3).sum(axis=1) / n
        skewness = np.where(second > 0, third / second**1.5, 0.0)
    missing = np.clip((FEW - n) / 40, 0, 1)
    side = np.where((missing > 0) & (np.abs(skewness) > SKEWED), np.sign(skewness), 0.0)
    return side, 1 + MORE * missing**2


def share_ends(sums: ClusterSums, se: np.ndarray, df: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ends of a level of p or of accuracy: Jeffreys' interval of a share of as many items as its spread says.

    The mean of n answers that are right or wrong has the standard error sqrt(p (1 - p) / n). Turned around, a standard
    error says how many such answers the items are worth: more than there are where most lie between 0 and 1, fewer in
    clusters (Korn & Graubard 1998, Survey Methodology 24; less by (1.96 / t)^2, because it is estimated). Jeffreys'
    interval (a beta prior of 1/2, 1/2) of that many leans inward near 0 and 1, as the distribution of a mean does
    there, and is close to its rate for few counts, where Wilson's is above it (Brown, Cai & DasGupta 2001, Statistical
    Science 16). Where the mean leaves less than `OFF_BOUND` items' worth to the nearer bound, the items are worth no
    more than their number: the sample cannot tell how many there are that are off.

    Args:
        se: standard error of the mean. [E]
        df: its degrees of freedom. [E]

    Returns:
        Low and high; the point where all values are equal and not near 0 or 1. each [E]
    """
    mean = np.clip(np.nan_to_num(sums.mean, nan=0.5), 0, 1)
    quantiles = stats.norm.ppf(1 - TAIL) / stats.t.ppf(1 - TAIL, df)
    worth = np.divide(mean * (1 - mean) * quantiles**2, se**2, out=np.full(len(mean), np.inf), where=se > 0)
    near = sums.n * np.minimum(mean, 1 - mean) < OFF_BOUND
    worth = np.where(near, np.fmin(worth, sums.n_clusters), worth)
    known = np.isfinite(worth)
    low, high = jeffreys(mean, np.where(known, worth, 1.0))
    return np.where(known, np.minimum(low, mean), mean), np.where(known, np.maximum(high, mean), mean)


def jeffreys(share: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Jeffreys' 95% interval of a share [E] of n [E], not always whole items; 0 and 1 are their own ends. [2, E]"""
    hits = np.maximum(np.asarray(n, dtype=float), 1) * np.asarray(share, dtype=float)
    rest = np.maximum(n, 1) - hits
    low, high = (stats.beta.ppf(tail, hits + 0.5, rest + 0.5) for tail in (TAIL, 1 - TAIL))
    return np.array([np.where(hits <= 0, 0.0, low), np.where(rest <= 0, 1.0, high)])


def loss_ends(values: np.ndarray, clusters: np.ndarray, found: Estimate) -> Estimate:
    """A mean change of p(correct) with ends that know of answers which change and were not drawn.

    Losses and gains are each a share near 0 with Jeffreys' interval (`jeffreys`); the ends of their difference are
    Newcombe's (1998, Statistics in Medicine 17), the squares of the two distances added. Only where all changes
    together are less than `OFF_BOUND` items' worth; the bootstrap's ends stay where they are further out. A cell
    compared with itself, where all values are equal, keeps the point.

    Args:
        values: changes of p(correct), one column an effect. [N, E]
        clusters: 0-based cluster code of each item. [N]
        found: the bootstrap's estimate of their means.
    """
    up, down = (cluster_sums(np.maximum(sign * values, 0), clusters).mean for sign in (1, -1))
    up, down = np.nan_to_num(up), np.nan_to_num(down)
    (up_low, up_high), (down_low, down_high) = (jeffreys(np.minimum(x, 1), found.n_clusters) for x in (up, down))
    few = (found.n * (up + down) < OFF_BOUND) & (found.se > 0)
    low = up - down - np.hypot(up - up_low, down_high - down)
    high = up - down + np.hypot(up_high - up, down - down_low)
    low = np.where(few, np.maximum(np.minimum(found.low, low), -1), found.low)  # NaN stays NaN
    high = np.where(few, np.minimum(np.maximum(found.high, high), 1), found.high)
    return replace(found, low=low, high=high)


def jackknife(without: np.ndarray, items: np.ndarray) -> np.ndarray:
    """What each value adds to figures that are no means, from the figures without each item. Sum 0 over values. [N, S]

    `bootstrap_mean` of a figure plus these, with `items` as the clusters, has the figure's interval (Efron 1982, The
    Jackknife, the Bootstrap and Other Resampling Plans).

    Args:
        without: each figure with an item left out. [S, K]
        items: 0-based item of each value. [N]
    """
    count = without.shape[1]
    moved = (count - 1) * (without.mean(axis=1, keepdims=True) - without)
    return np.asarray((moved / np.bincount(items) * len(items) / count).T[items])


def can_show_loss(n: int, most: float) -> bool:
    """Whether n questions can show that a loss is at most `most`: by `loss_ends`, where not one answer changes.

    Example:
        >>> can_show_loss(60, 0.03), can_show_loss(120, 0.03)
        (False, True)
    """
    return bool(jeffreys(np.zeros(1), np.array([n]))[1, 0] <= most)


def among(span: Interval, *, tries: int, df: float = np.inf) -> Interval:
    """The 95% interval of the largest in size of `tries` effects that were compared on the same items.

    The largest of k estimates is the one that chance favored most: with 16 equal ones its own interval covers in two of
    three runs. Chance moves it away from 0, so it is the end towards 0 that moves: its half is longer by the quantiles
    at .05 / k over .025, which Bonferroni's bound gives; the far end misses at most as often as it did, and of k equal
    ones nearly never. What was chosen on other items (the selection split) needs no correction.

    Args:
        tries: effects that it was chosen from, itself included.
        df: degrees of freedom of its standard error.

    Raises:
        ValueError: fewer than one.
    """
    if tries < 1:
        raise ValueError(f"tries ({tries}) must be 1 or more")
    longer = max(stats.t.ppf(1 - 2 * TAIL / tries, df) / stats.t.ppf(1 - TAIL, df), 1.0)
    if span.point < 0:
        return Interval(span.point, span.low, span.point + (span.high - span.point) * longer)
    return Interval(span.point, span.point - (span.point - span.low) * longer, span.high)


def estimate(
    sums: ClusterSums,
    low: np.ndarray,
    high: np.ndarray,
    *,
    se: np.ndarray,
    df: np.ndarray | None = None,
    point: np.ndarray | None = None,
) -> Estimate:
    """The ends where there is enough data for them. `point`: the mean unless given."""
    middle = sums.mean if point is None else point
    ok = enough(sums)
    return Estimate(
        point=middle,
        low=np.where(ok, low, np.nan),
        high=np.where(ok, high, np.nan),
        se=se,
        df=sums.n_clusters - 1.0 if df is None else df,
        n=sums.n,
        n_clusters=sums.n_clusters,
    )


def _bootstrap(sums: ClusterSums, *, within: tuple[float, float], how: Resampling) -> Estimate:
    se = standard_error(sums)
    if within == SHARE:
        return estimate(sums, *share_ends(sums, se, np.maximum(sums.n_clusters - 1.0, 1.0)), se=se)
    weights = how.weights(sums.total.shape[1])
    # The vector alone is the same column on every base; equal columns are resampled once.
    both = np.hstack([sums.total, sums.count, sums.weight])
    _, first, back = np.unique(both, axis=0, return_index=True, return_inverse=True)
    ends = np.full((2, len(se)), np.nan)
    used = first[enough(sums)[first] & (se[first] > 0)]
    ends_of = _bootstrap_ends if within == UNBOUNDED else _bca_ends
    for part in _chunks(len(used)):
        ends[:, used[part]] = ends_of(sums.select(used[part]), weights)
    low, high = ends[:, first[back.reshape(len(both))]]
    reach = stats.t.ppf(1 - TAIL, np.maximum(sums.n_clusters - 1, 1)) * se
    low, high = np.fmin(low, sums.mean - reach), np.fmax(high, sums.mean + reach)  # the point where nothing varies
    side, longer = skewed(sums)
    low = np.where(side < 0, sums.mean - (sums.mean - low) * longer, low)
    high = np.where(side > 0, sums.mean + (high - sums.mean) * longer, high)
    low, high = np.clip([low, high], *within)
    if within == UNBOUNDED:
        low, high = np.where(carried_by_one(sums) & (se > 0), np.nan, [low, high])
    return estimate(sums, low, high, se=se)


def _chunks(size: int) -> list[slice]:
    return [slice(start, start + CHUNK) for start in range(0, size, CHUNK)]


def _over_clusters(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """sum_c values[e, c] weights[c, b], without BLAS: the bits are the same for any threads and any neighbours."""
    return np.asarray(np.einsum("ec,cb->eb", values, weights))


def _bootstrap_ends(sums: ClusterSums, weights: np.ndarray) -> np.ndarray:
    """Low and high of each effect: studentized, or BCa where that breaks down. [2, E]"""
    t, collapsed = _studentized_draws(sums, weights)
    se = standard_error(sums)
    with np.errstate(invalid="ignore"):
        low, high = np.quantile(t, [TAIL, 1 - TAIL], axis=1)
        ends = np.array([sums.mean - high * se, sums.mean - low * se])  # the upper quantile of t gives the lower end
    broken = (collapsed > COLLAPSE_SHARE) | ~np.isfinite(ends).all(axis=0)
    if broken.any():
        ends[:, broken] = _bca_ends(sums.select(broken), weights)
    return ends


def _studentized_draws(sums: ClusterSums, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean* - mean) / se* of each resample [E, B], and the share of resamples whose se* collapsed [E].

    With r_c the residual total of cluster c, n_c its items and w_c how often it was drawn, n* = sum w_c n_c:
        mean* - mean = sum w_c r_c / n* = e
        (se* n*)^2 = C / (C - 1) sum w_c (r_c - e n_c)^2, the residuals about the resample's OWN mean,
                   = C / (C - 1) (sum w_c r_c^2 - 2 e sum w_c r_c n_c + e^2 sum w_c n_c^2),
    so that every resample costs four products and none is ever written out item by item.
    """
    rest, count = sums.residual(), sums.weight
    clusters = sums.n_clusters[:, None]
    unbias = clusters / (clusters - 1.0)
    n = _over_clusters(count, weights)  # [E, B]
    with np.errstate(invalid="ignore", divide="ignore"):
        error = _over_clusters(rest, weights) / n
        square = _over_clusters(rest**2, weights) - 2 * error * _over_clusters(rest * count, weights)
        square += error**2 * _over_clusters(count**2, weights)
        # A resample of one value over and over has no spread but for rounding; that is 0, not a tiny number.
        square[square <= 1e-12 * (rest**2).sum(axis=1, keepdims=True)] = 0.0
        se = np.sqrt(square * unbias) / n
        whole = np.sqrt((rest**2).sum(axis=1, keepdims=True) * unbias) / count.sum(axis=1, keepdims=True)
        collapsed = (se < COLLAPSED * whole).mean(axis=1)
        t = np.where(error == 0, 0.0, error / se)
    return t, collapsed


def _bca_ends(sums: ClusterSums, weights: np.ndarray) -> np.ndarray:
    """Quantiles of the resamples' means at bias-corrected, accelerated levels (Efron 1987). [2, E]

    Level = Phi(z0 + (z0 + z) / (1 - a (z0 + z))), z the normal quantile of the tail; the plain levels stand in where
    these are undefined (no resample on one side).
    """
    errors = _errors(sums, weights)
    z0, bend = _bca_corrections(errors, sums)
    with np.errstate(invalid="ignore", divide="ignore"):
        shifted = z0 + stats.norm.ppf([[TAIL], [1 - TAIL]])
        levels = stats.norm.cdf(z0 + shifted / (1 - bend * shifted))
    levels = np.where(np.isfinite(levels) & np.isfinite(z0), levels, [[TAIL], [1 - TAIL]])
    means = sums.mean[:, None] + errors
    return np.array([np.quantile(own, level) for own, level in zip(means, levels.T, strict=True)]).T


def _bca_p(sums: ClusterSums, weights: np.ndarray, *, at: np.ndarray) -> np.ndarray:
    """Two-sided p of a mean that lies `at` from the estimate: the level whose BCa end it is, turned around. [E]"""
    errors = _errors(sums, weights)
    z0, bend = _bca_corrections(errors, sums)
    draws = errors.shape[1]
    share = np.clip((errors <= at[:, None]).mean(axis=1), 1 / (1 + draws), draws / (1 + draws))
    with np.errstate(invalid="ignore", divide="ignore"):
        away = stats.norm.ppf(share) - z0
        level = stats.norm.cdf(away / (1 + bend * away) - z0)
    level = np.where(np.isfinite(level), level, share)
    return np.asarray(2 * np.minimum(level, 1 - level))


def _errors(sums: ClusterSums, weights: np.ndarray) -> np.ndarray:
    """mean* - mean of each resample. [E, B]"""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(_over_clusters(sums.residual(), weights) / _over_clusters(sums.weight, weights))


def _bca_corrections(errors: np.ndarray, sums: ClusterSums) -> tuple[np.ndarray, np.ndarray]:
    """The median bias and the acceleration of BCa. each [E]

    z0 = Phi^-1(share of resamples below the estimate) corrects the median bias. The acceleration
    a = sum g_c^3 / (6 (sum g_c^2)^1.5), with g_c how far the mean without cluster c lies below the mean of those means,
    corrects for a spread that changes with the mean.
    """
    below = ((errors < 0).mean(axis=1) + (errors <= 0).mean(axis=1)) / 2  # ties count half
    seen = sums.count > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        without = (sums.total.sum(1)[:, None] - sums.total) / (sums.weight.sum(1)[:, None] - sums.weight)
        without = np.where(seen, without, 0.0)
        middle = without.sum(axis=1, keepdims=True) / sums.n_clusters[:, None]
        gap = np.where(seen, middle - without, 0.0)
        bend = (gap**3).sum(axis=1) / (6 * (gap**2).sum(axis=1) ** 1.5)
        return stats.norm.ppf(below), bend
