"""How many items a question needs, and the smallest effect a run could have seen. docs/numbers.md 13."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import stats

LEVEL = 0.05
"""Of every test, and of the false-discovery rate within a family."""
FULLY = (0.75, 1.33)
"""Retention: an interval inside it is "adds fully"."""


def detectable_effect(se: np.ndarray | float, *, df: np.ndarray | float = np.inf, power: float = 0.8) -> np.ndarray:
    """The effect that a two-sided 5% test finds with this power: 2.8 standard errors at 80%. Units of `se`.

    Args:
        df: degrees of freedom of `se`. With 2-5 fits they are few, a t test needs far more than 1.96 standard errors,
            and 2.8 of them would be found in .3 to .8 of runs; inf is the normal quantile.
    """
    known = np.where(np.isfinite(df), df, np.inf)
    return (stats.t.ppf(1 - LEVEL / 2, known) + stats.t.ppf(power, known)) * np.asarray(se, dtype=float)


def items_needed(effect: float, sd: float, *, power: float = 0.8) -> int:
    """Independent items for a paired two-sided 5% t test to find a mean effect with this power.

    Args:
        effect: mean per-item effect, log-odds; its sign does not matter.
        sd: standard deviation of the per-item effect, log-odds.

    Raises:
        ValueError: an effect of 0 (no number of items finds it), a negative sd, or a power outside 0-1.
    """
    if effect == 0 or not math.isfinite(effect) or not 0 <= sd < math.inf or not 0 < power < 1:
        raise ValueError(f"effect ({effect}) must not be 0, sd ({sd}) not negative, power ({power}) between 0 and 1")
    if sd == 0:
        return 2
    return _fewest(lambda n: t_test_power(effect, sd, n=n) >= power)


def items_to_settle(effect: float, sd: float, *, power: float = 0.8) -> int:
    """Independent items for the verdict "adds fully" with this power when the vector's effect is in truth kept whole.

    Args:
        effect: the vector alone, mean log-odds; positive.
        sd: standard deviation of the per-item interaction, log-odds.

    Raises:
        ValueError: as `items_needed`, and for an effect that is not positive.
    """
    if effect <= 0:
        raise ValueError(f"effect ({effect}) must be positive: nothing can be kept of an effect that is not there")
    if not 0 <= sd < math.inf or not 0 < power < 1:
        raise ValueError(f"sd ({sd}) must not be negative, power ({power}) between 0 and 1")
    return _fewest(lambda n: adds_fully_power(effect, sd, n=n) >= power)


def spread_of_items(detectable: float, n: int) -> float:
    """The standard deviation of a per-item effect, from the detectable effect of its mean over n items."""
    return float(detectable / detectable_effect(1.0) * math.sqrt(n))


def adds_fully_power(effect: float, sd: float, *, n: int) -> float:
    """Chance that the retention interval lies inside the "adds fully" range when the truth is 1 (normal ratio)."""
    if sd == 0:
        return 1.0
    spread = sd / effect / math.sqrt(n)
    reach = stats.t.ppf(1 - LEVEL / 2, n - 1) * spread
    low, high = FULLY[0] + reach - 1, FULLY[1] - reach - 1
    return float(max(stats.norm.cdf(high / spread) - stats.norm.cdf(low / spread), 0.0))


def t_test_power(effect: float, sd: float, *, n: int) -> float:
    """Power of the paired two-sided 5% t test with n items (noncentral t)."""
    shift, edge = abs(effect) / sd * math.sqrt(n), stats.t.ppf(1 - LEVEL / 2, n - 1)
    return float(stats.nct.sf(edge, n - 1, shift) + stats.nct.cdf(-edge, n - 1, shift))


def _fewest(enough: Callable[[int], bool]) -> int:
    """The smallest n from 2 on that is enough; more items are never fewer. Doubling, then halves."""
    high = 2
    while not enough(high):
        high *= 2
    low = max(high // 2, 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
