"""How many items a question needs, and the smallest effect a run could have seen. docs/numbers.md 13."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from caa_bench.analysis.few_fits import MANY_FITS, cochran_df

LEVEL = 0.05
"""Of every test, and of the false-discovery rate within a family."""
FULLY = (0.75, 1.33)
"""Retention: an interval inside it is "adds fully"."""
MOST_ITEMS = 1 << 24
"""Where so many do not show an effect, no number does."""


def detectable_effect(se: np.ndarray | float, *, df: np.ndarray | float = np.inf, power: float = 0.8) -> np.ndarray:
    """The effect that a two-sided 5% test finds with this power: 2.8 standard errors at 80%. Units of `se`.

    Args:
        df: degrees of freedom of `se`. With 2-5 fits they are few, a t test needs far more than 1.96 standard errors,
            and 2.8 of them would be found in .3 to .8 of runs; inf is the normal quantile.
    """
    known = np.where(np.isfinite(df), df, np.inf)
    return (stats.t.ppf(1 - LEVEL / 2, known) + stats.t.ppf(power, known)) * np.asarray(se, dtype=float)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What an effect's standard error is made of.

    Args:
        items: standard deviation of the per-item effect, log-odds; its part shrinks with more items.
        fits: standard error that the fits leave, log-odds: sd / sqrt(fits) of seeds, sd sqrt(1 + 1 / fits) of resampled
            pairs. More items do not shrink it.
        n_fits: how many fits it is over; 1: fit noise is not part of the interval, and `fits` is not used.
    """

    items: float
    fits: float = 0.0
    n_fits: int = 1

    def __post_init__(self) -> None:
        if not (0 <= self.items < math.inf and 0 <= self.fits < math.inf) or self.n_fits < 1:
            raise ValueError(f"sd ({self.items}) and fits' error ({self.fits}) must not be negative, fits 1 or more")

    def at(self, n: int) -> tuple[float, float]:
        """The standard error with n items, and its degrees of freedom (`fits.two_way`)."""
        by_item, by_fit = self.items**2 / n, self.fits**2 if self.n_fits > 1 else 0.0
        se = math.sqrt(by_item + by_fit)
        if self.n_fits == 1 or se == 0:
            return se, n - 1.0
        if self.n_fits < MANY_FITS:
            return se, float(
                cochran_df(np.array([by_item]), np.array([by_fit]), np.array([n - 1.0]), self.n_fits - 1.0)[0]
            )
        return se, (by_item + by_fit) ** 2 / (by_item**2 / (n - 1) + by_fit**2 / (self.n_fits - 1))


def items_needed(effect: float, noise: Noise, *, power: float = 0.8) -> int | None:
    """Independent items for a paired two-sided 5% t test to find a mean effect with this power.

    Args:
        effect: mean per-item effect, log-odds; its sign does not matter.
        noise: of the effect.

    Returns:
        None where no number of items does: the fits' noise alone is too large, and more fits are needed.

    Raises:
        ValueError: an effect of 0 (no number of items finds it), or a power outside 0-1.
    """
    if effect == 0 or not math.isfinite(effect) or not 0 < power < 1:
        raise ValueError(f"effect ({effect}) must not be 0, power ({power}) between 0 and 1")
    return _fewest(lambda n: t_test_power(effect, noise, n=n) >= power)


def items_to_settle(effect: float, noise: Noise, *, power: float = 0.8) -> int | None:
    """Independent items for the verdict "adds fully" with this power when the vector's effect is in truth kept whole.

    Args:
        effect: the vector alone, mean log-odds; positive.
        noise: of the interaction.

    Returns:
        None where no number of items does.

    Raises:
        ValueError: an effect that is not positive, or a power outside 0-1.
    """
    if effect <= 0:
        raise ValueError(f"effect ({effect}) must be positive: nothing can be kept of an effect that is not there")
    if not 0 < power < 1:
        raise ValueError(f"power ({power}) must be between 0 and 1")
    return _fewest(lambda n: adds_fully_power(effect, noise, n=n) >= power)


def adds_fully_power(effect: float, noise: Noise, *, n: int) -> float:
    """Chance that the retention interval lies inside the "adds fully" range when the truth is 1 (normal ratio)."""
    se, df = noise.at(n)
    if se == 0:
        return 1.0
    spread = se / effect
    reach = stats.t.ppf(1 - LEVEL / 2, df) * spread
    low, high = FULLY[0] + reach - 1, FULLY[1] - reach - 1
    return float(max(stats.norm.cdf(high / spread) - stats.norm.cdf(low / spread), 0.0))


def t_test_power(effect: float, noise: Noise, *, n: int) -> float:
    """Power of the two-sided 5% t test with n items (noncentral t)."""
    se, df = noise.at(n)
    if se == 0:
        return 1.0
    shift, edge = abs(effect) / se, stats.t.ppf(1 - LEVEL / 2, df)
    return float(stats.nct.sf(edge, df, shift) + stats.nct.cdf(-edge, df, shift))


def _fewest(enough: Callable[[int], bool]) -> int | None:
    """The smallest n from 2 on that is enough; more items are never fewer. Doubling, then halves."""
    high = 2
    while not enough(high):
        high *= 2
        if high > MOST_ITEMS:
            return None
    low = max(high // 2, 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
