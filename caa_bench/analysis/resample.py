"""Cluster sums and the one resample every cell shares. Shapes: N items, C clusters, E effects, B draws.

Sums over resamples are exact: values are put on a power-of-two grid (2**-32 of their largest size) so that no partial
sum rounds. The bits of an interval therefore depend neither on the order of the rows nor on the BLAS library, its
thread count or its blocking, and ties with the observed value are true ties.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

DRAWS = 9999
GRID = 2.0**32


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
        rest[self._equal] = 0.0  # a mean of equal values can miss them by a last bit, which is no spread
        return rest

    @property
    def _equal(self) -> np.ndarray:
        seen = self.weight > 0
        means = np.divide(self.total, self.weight, out=np.zeros_like(self.total), where=seen)
        low = np.where(seen, means, np.inf).min(axis=1)
        high = np.where(seen, means, -np.inf).max(axis=1)
        return high - low <= 1e-12 * np.maximum(np.abs(high), np.abs(low))


def cluster_sums(values: np.ndarray, clusters: np.ndarray, *, shares: np.ndarray | None = None) -> ClusterSums:
    """Sums [E, C] of the values [N, E] over 0-based cluster codes [N]; NaN values are left out and not counted.

    Args:
        shares: whole numbers that the values are sums over (tokens of a passage); None: each value is one. [N, E]

    Raises:
        ValueError: an infinite value, which must have been made an item error before.
    """
    if shares is not None:
        return replace(
            cluster_sums(values, clusters),
            share=cluster_sums(np.where(np.isnan(values), np.nan, shares), clusters).total,
        )
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


@lru_cache(maxsize=2)
def resample_weights(n_clusters: int, *, seed: int, draws: int) -> np.ndarray:
    """How often each cluster is drawn in each resample. [C, B], columns sum to C"""
    picks = np.random.default_rng([seed, 0]).integers(n_clusters, size=(draws, n_clusters))
    flat = picks + n_clusters * np.arange(draws)[:, None]
    counts = np.bincount(flat.ravel(), minlength=draws * n_clusters).reshape(draws, n_clusters)
    return _frozen(counts.T)


@lru_cache(maxsize=2)
def sign_flips(n_clusters: int, *, seed: int, draws: int) -> np.ndarray:
    """Random signs. [C, B], each 1.0 or -1.0"""
    signs = np.random.default_rng([seed, 1]).integers(2, size=(draws, n_clusters))
    return _frozen(2.0 * signs.T - 1.0)


def _frozen(values: np.ndarray) -> np.ndarray:
    """A read-only copy: the cache hands the same array to every caller."""
    kept = np.ascontiguousarray(values, dtype=np.float64)
    kept.flags.writeable = False
    return kept


def power_of_two_above(values: np.ndarray) -> np.ndarray:
    """The smallest power of two at or above each row's largest size; 1 for a row of zeros. [E, 1]"""
    largest = np.abs(values).max(axis=1, keepdims=True, initial=0.0)
    return 2.0 ** np.ceil(np.log2(np.where(largest > 0, largest, 1.0)))


def on_grid(values: np.ndarray) -> np.ndarray:
    """Values of size at most 1 (or whole numbers), rounded to 2**-32."""
    return np.round(values * GRID) / GRID
