"""Degrees of freedom where two to four fits must show their own spread. Shapes: L lines."""

from __future__ import annotations

import numpy as np
from scipy import stats

from caa_bench.analysis.estimates import TAIL

MANY_FITS = 5
"""From so many on Satterthwaite's degrees of freedom hold; with fewer Cochran's wider quantile is taken."""


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
