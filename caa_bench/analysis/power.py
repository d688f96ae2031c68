"""How many items a question needs, and the smallest effect a run could have seen. NUMBERS.md 13."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

LEVEL = 0.05


def detectable_effect(se: np.ndarray | float, *, power: float = 0.8) -> np.ndarray:
    """The effect that a two-sided 5% test finds with this power: 2.8 standard errors at 80%. Units of `se`."""
    return (stats.norm.ppf(1 - LEVEL / 2) + stats.norm.ppf(power)) * np.asarray(se, dtype=float)


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
    n = max(2, math.ceil((detectable_effect(sd, power=power) / effect) ** 2))
    while t_test_power(effect, sd, n=n) < power:
        n += 1
    return n


def t_test_power(effect: float, sd: float, *, n: int) -> float:
    """Power of the paired two-sided 5% t test with n items (noncentral t)."""
    shift, edge = abs(effect) / sd * math.sqrt(n), stats.t.ppf(1 - LEVEL / 2, n - 1)
    return float(stats.nct.sf(edge, n - 1, shift) + stats.nct.cdf(-edge, n - 1, shift))
