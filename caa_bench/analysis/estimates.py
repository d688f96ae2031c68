"""What every table is made of: sums over clusters of items, the shared resamples, and estimates with their intervals.

Shapes: N items, C clusters, E effects, B draws. A NaN value is an item that was not scored: it is left out of that
effect and of its `n`. Sums over resamples are taken without BLAS, whose last bits depend on its threads and on which
effects are computed together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

DRAWS = 9999
MIN_ITEMS = 20
MIN_CLUSTERS = 10
TAIL = 0.025
"""Probability beyond each end of an interval."""
ENDS = ("", "_low", "_high")
"""What follows an estimate's name in a table: the point, then the two ends of its interval."""


@dataclass(frozen=True)
class Resampling:
    """How intervals and tests draw: the same clusters in every cell, so that cells are compared on equal resamples.

    Args:
        seed: of the random numbers.
        draws: resamples or sign flips, B.
    """

    seed: int = 0
    draws: int = DRAWS

    def weights(self, n_clusters: int) -> np.ndarray:
        """How often each cluster is drawn in each resample. [C, B], columns sum to C"""
        return _weights(n_clusters, self)

    def signs(self, n_clusters: int) -> np.ndarray:
        """Random signs of whole clusters. [C, B], each 1.0 or -1.0"""
        return _signs(n_clusters, self)


STANDARD = Resampling()
"""Seed 0 and 9,999 draws."""


@lru_cache(maxsize=2)
def _weights(n_clusters: int, how: Resampling) -> np.ndarray:
    picks = np.random.default_rng([how.seed, 0]).integers(n_clusters, size=(how.draws, n_clusters))
    flat = picks + n_clusters * np.arange(how.draws)[:, None]
    counts = np.bincount(flat.ravel(), minlength=how.draws * n_clusters).reshape(how.draws, n_clusters)
    return _frozen(counts.T)


@lru_cache(maxsize=2)
def _signs(n_clusters: int, how: Resampling) -> np.ndarray:
    signs = np.random.default_rng([how.seed, 1]).integers(2, size=(how.draws, n_clusters))
    return _frozen(2.0 * signs.T - 1.0)


def _frozen(values: np.ndarray) -> np.ndarray:
    """A read-only copy, because the cache hands the same array to every caller."""
    kept = np.ascontiguousarray(values, dtype=np.float64)
    kept.flags.writeable = False
    return kept


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Point estimates with their 95% intervals, one entry an effect.

    Args:
        point: NaN without items. [E]
        low / high: the interval; NaN below `MIN_ITEMS` items or `MIN_CLUSTERS` clusters; the point itself where all
            values are equal. [E]
        se: standard error. [E]
        df: degrees of freedom of `se`: clusters less 1, fewer where fits differ. [E]
        n / n_clusters: items and clusters behind each effect. [E]

    Example:
        >>> from caa_bench.analysis.intervals import bootstrap_mean
        >>> found = bootstrap_mean(np.arange(30.0)[:, None], np.arange(30))
        >>> round(float(found.point[0]), 1), bool(found.low[0] < 14.5 < found.high[0])
        (14.5, True)
    """

    point: np.ndarray
    low: np.ndarray
    high: np.ndarray
    se: np.ndarray
    df: np.ndarray
    n: np.ndarray
    n_clusters: np.ndarray

    @staticmethod
    def columns(*names: str) -> list[str]:
        """The columns in which a table holds these estimates: `a, a_low, a_high, b, b_low, ...`."""
        return [f"{name}{end}" for name in names for end in ENDS]

    def put(self, table: pd.DataFrame, name: str) -> None:
        """Write the point and its interval into a table's columns of that name."""
        for column, values in zip(self.columns(name), (self.point, self.low, self.high), strict=True):
            table[column] = values

    def transformed(self, scale: Callable[[np.ndarray], np.ndarray]) -> Estimate:
        """The same on another, monotone scale (the lower end stays the lower one); `se` keeps the old scale."""
        ends = np.array([scale(self.low), scale(self.high)])
        return replace(self, point=scale(self.point), low=ends.min(axis=0), high=ends.max(axis=0))

    def where(self, known: np.ndarray) -> Estimate:
        """The same with NaN where an effect is not to be given."""
        kept = {name: np.where(known, getattr(self, name), np.nan) for name in ("point", "low", "high")}
        return replace(self, **kept)


@dataclass(frozen=True)
class Interval:
    """One estimate read back from a table's line.

    Args:
        point / low / high: NaN where it is n/a.
    """

    point: float
    low: float
    high: float

    @classmethod
    def take(cls, line: Any, name: str) -> Interval:
        """The columns `name, name_low, name_high` of a line (a mapping or a row of a table)."""
        return cls(*(float(line[column]) for column in Estimate.columns(name)))

    def text(self, form: str = "+.2f") -> str:
        """`+1.20 [+1.00, +1.40]`; the point alone where there is no interval."""
        ends = "" if np.isnan(self.low) else f" [{self.low:{form}}, {self.high:{form}}]"
        return f"{self.point:{form}}{ends}"


NOT_KNOWN = Interval(np.nan, np.nan, np.nan)


@dataclass(frozen=True, kw_only=True)
class ClusterSums:
    """Sums and counts of each effect's values in each cluster.

    Args:
        total: sum of the finite values. [E, C]
        count: how many there are; 0 where the cluster has none. [E, C]
        share: what the sum is divided by, where that is not the count: tokens of a perplexity's passages. [E, C]
    """

    total: np.ndarray
    count: np.ndarray
    share: np.ndarray | None = None

    @property
    def weight(self) -> np.ndarray:
        """What each cluster weighs in the mean: its items, or their `share`. [E, C]"""
        return self.count if self.share is None else self.share

    @property
    def n(self) -> np.ndarray:
        """Items of each effect. [E]"""
        return self.count.sum(axis=1).astype(int)

    @property
    def n_clusters(self) -> np.ndarray:
        """Clusters with at least one item, of each effect. [E]"""
        return (self.count > 0).sum(axis=1)

    @property
    def mean(self) -> np.ndarray:
        """Mean over items (a ratio of sums where items weigh differently); NaN where there is none. [E]"""
        n = self.weight.sum(axis=1)
        return np.divide(self.total.sum(axis=1), n, out=np.full(len(n), np.nan), where=n > 0)

    def select(self, effects: slice | np.ndarray) -> ClusterSums:
        """The same for some of the effects."""
        share = None if self.share is None else self.share[effects]
        return ClusterSums(total=self.total[effects], count=self.count[effects], share=share)

    def residual(self) -> np.ndarray:
        """Each cluster's total less what its weight would give at the mean; these sum to 0. [E, C]"""
        rest = self.total - np.nan_to_num(self.mean)[:, None] * self.weight
        seen = self.weight > 0
        means = np.divide(self.total, self.weight, out=np.zeros_like(self.total), where=seen)
        low, high = np.where(seen, means, np.inf).min(axis=1), np.where(seen, means, -np.inf).max(axis=1)
        # The mean of equal values can miss them by a last bit; that is no spread.
        rest[high - low <= 1e-12 * np.maximum(np.abs(high), np.abs(low))] = 0.0
        return rest


def cluster_sums(values: np.ndarray, clusters: np.ndarray, *, shares: np.ndarray | None = None) -> ClusterSums:
    """Sums [E, C] of the values [N, E] over 0-based cluster codes [N].

    Args:
        shares: whole numbers that the values are sums over (tokens of a passage); None: each value is one. [N, E]

    Raises:
        ValueError: an infinite value, which must have been made an item error before.
    """
    if shares is not None:
        weight = cluster_sums(np.where(np.isnan(values), np.nan, shares), clusters).total
        return replace(cluster_sums(values, clusters), share=weight)
    if np.isinf(values).any():
        raise ValueError("an infinite score reached the statistics; it should have been an item error")
    if not len(values):
        nothing = np.zeros((values.shape[1], 1))
        return ClusterSums(total=nothing, count=nothing)
    order = np.argsort(clusters, kind="stable")
    starts = np.flatnonzero(np.diff(clusters[order], prepend=-1))
    ordered = values[order]
    total = np.add.reduceat(np.nan_to_num(ordered), starts, axis=0)
    count = np.add.reduceat((~np.isnan(ordered)).astype(float), starts, axis=0)
    return ClusterSums(total=np.ascontiguousarray(total.T), count=np.ascontiguousarray(count.T))


def codes(names: Iterable[object]) -> np.ndarray:
    """0-based codes in the order of the sorted names. [N]"""
    return np.unique([str(name) for name in names], return_inverse=True)[1].reshape(-1)
