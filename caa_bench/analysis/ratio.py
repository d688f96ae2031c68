"""Retention T / A with a Fieller interval. NUMBERS.md 8. Shapes: N items, E effects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from caa_bench.analysis.intervals import TAIL, Intervals, covariance, guarded
from caa_bench.analysis.resample import ClusterSums, cluster_sums


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Two means, T and A, with their (co)variances and degrees of freedom. All [E]"""

    top: np.ndarray
    bottom: np.ndarray
    var_top: np.ndarray
    var_bottom: np.ndarray
    cov: np.ndarray
    df: np.ndarray


def fieller(numerator: np.ndarray, denominator: np.ndarray, clusters: np.ndarray) -> Intervals:
    """Interval of mean(numerator) / mean(denominator), both [N, E] over the same items (Fieller 1954; t with C - 1).

    NaN ends where the denominator is not separated from 0: the set is then unbounded.
    """
    either = np.isnan(numerator) | np.isnan(denominator)
    top = cluster_sums(np.where(either, np.nan, numerator), clusters)
    bottom = cluster_sums(np.where(either, np.nan, denominator), clusters)
    moments = Moments(
        top=top.mean,
        bottom=bottom.mean,
        var_top=covariance(top, top),
        var_bottom=covariance(bottom, bottom),
        cov=covariance(top, bottom),
        df=top.n_clusters - 1.0,
    )
    return fieller_ends(moments, top)


def fieller_ends(m: Moments, sums: ClusterSums) -> Intervals:
    """Every r for which (T - r A)^2 <= t^2 var(T - r A)."""
    t2 = stats.t.ppf(1 - TAIL, np.where(m.df > 0, m.df, np.nan)) ** 2
    a, b, c = m.bottom**2 - t2 * m.var_bottom, m.top * m.bottom - t2 * m.cov, m.top**2 - t2 * m.var_top
    with np.errstate(invalid="ignore", divide="ignore"):
        root = np.sqrt(np.maximum(b**2 - a * c, 0.0))
        low, high = np.where(a > 0, (b - root) / a, np.nan), np.where(a > 0, (b + root) / a, np.nan)
        ratio = m.top / m.bottom
        spread = m.var_top - 2 * ratio * m.cov + ratio**2 * m.var_bottom
        return guarded(sums, low, high, se=np.sqrt(np.maximum(spread, 0.0)) / np.abs(m.bottom), point=ratio)
