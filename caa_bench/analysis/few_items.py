"""Samples in which few items differ from the others: what can be told of their mean. docs/numbers.md 6.

Shapes: E effects.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from caa_bench.analysis.estimates import TAIL, ClusterSums

CARRIERS, OF_FEW, FEW = 1.5, 3.0, 50
"""With fewer clusters than that holding all of the spread (below 50 clusters: a seventh of them, up to the second
number) no interval is given: what the clusters that were not drawn do cannot be told."""
OFF_BOUND = 5.0
"""Items' worth of probability away from 0 or 1: with less, a level's interval is also a score interval of a share."""


def carriers(sums: ClusterSums) -> np.ndarray:
    """How many clusters of equal size would hold the spread: (sum r^2)^2 / sum r^4. n / 3 of a normal sample. [E]"""
    square = sums.residual() ** 2
    fourth = (square**2).sum(axis=1)
    return np.divide(square.sum(axis=1) ** 2, fourth, out=np.zeros(len(fourth)), where=fourth > 0)


def carried_by_few(sums: ClusterSums) -> np.ndarray:
    """Whether so few clusters hold all of the spread that no interval of an unbounded mean is given. [E] bool"""
    return carriers(sums) < np.where(sums.n_clusters < FEW, np.clip(sums.n_clusters / 7, CARRIERS, OF_FEW), CARRIERS)


def score_ends(sums: ClusterSums, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A level's ends, near 0 and 1 at least as far in as the score interval of a share (Wilson 1927) over clusters.

    Of all items between 0 and 1 with one mean, those that are 0 or 1 vary most, so that a share's interval is wide
    enough for any; it also knows of items that are off and were not drawn. Where the mean leaves less than `OFF_BOUND`
    items' worth to the nearer bound, the sample cannot tell how many there are.
    """
    n, z, mean = sums.n_clusters, stats.norm.ppf(1 - TAIL), np.clip(np.nan_to_num(sums.mean, nan=0.5), 0, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        middle = (mean + z**2 / (2 * n)) / (1 + z**2 / n)
        reach = z / (1 + z**2 / n) * np.sqrt(mean * (1 - mean) / n + z**2 / (4 * n**2))
    near = n * np.minimum(mean, 1 - mean) < OFF_BOUND
    return np.where(near, np.fmin(low, middle - reach), low), np.where(near, np.fmax(high, middle + reach), high)
