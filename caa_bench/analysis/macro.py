"""Means over items that are unweighted means over their categories, as the paper averages MMLU and TruthfulQA.

Shapes: N items, C cells.
"""

from __future__ import annotations

import numpy as np


def macro(values: np.ndarray, categories: np.ndarray) -> np.ndarray:
    """Values whose plain mean over items is the unweighted mean over categories, item by item, for the bootstrap.

    With weights w of mean 1 and the macro average M, an item becomes M + w (x - M): the linearized weighted mean, so
    that its spread is that of the average and not of the categories' sizes. One category, or categories of one size,
    leave the values as they are.

    Args:
        values: NaN where an item has no score; a category without any in a cell does not count there. [N, C]
        categories: 0-based category of each item. [N]
    """
    alike = np.unique(np.bincount(categories)).size <= 1
    if alike and not np.isnan(values).any():
        return values
    member = categories[:, None] == np.arange(categories.max() + 1)  # [N, K]
    seen = ~np.isnan(values)
    sizes = member.T.astype(float) @ seen  # [K, C]
    used = (sizes > 0).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = seen.sum(axis=0) / (used * sizes[categories])
        middle = np.nansum(weights * values, axis=0) / seen.sum(axis=0)
    return np.where(weights == 1, values, middle + weights * (values - middle))


def macro_fits(values: np.ndarray, categories: np.ndarray) -> np.ndarray:
    """The same of each fit. [N, C, F]"""
    return np.stack([macro(values[:, :, fit], categories) for fit in range(values.shape[2])], axis=2)
