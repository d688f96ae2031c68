"""How many items a question needs, and the smallest effect a run could have seen. docs/numbers.md 13."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import special, stats

from caa_bench.analysis.fits import cochran_df

LEVEL = 0.05
"""Of every test, and of the false-discovery rate within a family."""
FULLY = (0.75, 1.33)
"""Retention: an interval inside it is "adds fully"."""
MOST_ITEMS = 1 << 24
"""Where so many do not show an effect, no number does."""


def detectable_effect(se: np.ndarray | float, *, power: float = 0.8) -> np.ndarray:
    """The effect that a two-sided 5% test over items finds with this power: 2.8 standard errors at 80%. Units of `se`.

    With several fits ask `detectable_with`: their few degrees of freedom make it far more.
    """
    return (stats.norm.ppf(1 - LEVEL / 2) + stats.norm.ppf(power)) * np.asarray(se, dtype=float)


def detectable_with(noise: Noise, *, n: int, power: float = 0.8) -> float:
    """The same of n items under one or several fits, by `t_test_power`. NaN where the noise is not known."""
    se, _ = noise.at(n)
    if noise.n_fits == 1 or not se > 0:
        return float(detectable_effect(se, power=power))
    edges, low, high = _edges(noise, n=n, se=se), 1.0, 1000.0
    for _ in range(30):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if _power_of(middle, edges) >= power else (middle, high)
    return high * se


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

    @classmethod
    def seen(cls, *, items: float, fits: float, n_fits: int) -> Noise:
        """The noise behind a run's own spread: what few fits show of theirs is mostly too little.

        A variance of F fits is chi-squared with F - 1 degrees of freedom, whose median is .45 of the truth for 2 fits
        and .69 for 3: divided by that, as many runs ask for too much as for too little.
        """
        few = stats.chi2.median(n_fits - 1) / (n_fits - 1) if n_fits > 1 else 1.0
        return cls(items=items, fits=0.0 if math.isnan(fits) else fits / few**0.5, n_fits=n_fits)

    def __post_init__(self) -> None:
        if not (0 <= self.items < math.inf and 0 <= self.fits < math.inf) or self.n_fits < 1:
            raise ValueError(f"sd ({self.items}) and fits' error ({self.fits}) must not be negative, fits 1 or more")

    def at(self, n: int) -> tuple[float, float]:
        """The standard error with n items, and its degrees of freedom (`fits.two_way`)."""
        by_item, by_fit = self.items**2 / n, self.fits**2 if self.n_fits > 1 else 0.0
        se = math.sqrt(by_item + by_fit)
        if self.n_fits == 1 or se == 0:
            return se, n - 1.0
        of_items, of_fits = np.array([n - 1.0]), self.n_fits - 1.0
        return se, float(cochran_df(np.array([by_item]), np.array([by_fit]), of_items, of_fits)[0])


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
    """Power of the two-sided 5% t test with n items: noncentral t, with several fits the mean over what they show.

    The fits' part of the variance that a run sees is chi-squared with F - 1 degrees of freedom about the true one. Each
    of its values has its own standard error and quantile (`fits.two_way`); the power is the mean over them.
    """
    se, df = noise.at(n)
    if se == 0:
        return 1.0
    if noise.n_fits == 1:
        shift, edge = abs(effect) / se, stats.t.ppf(1 - LEVEL / 2, df)
        return float(stats.nct.sf(edge, df, shift) + stats.nct.cdf(-edge, df, shift))
    return _power_of(abs(effect) / se, _edges(noise, n=n, se=se))


def _power_of(shift: float, edges: np.ndarray) -> float:
    return float(np.mean(special.ndtr(shift - edges) + special.ndtr(-edges - shift)))


def _edges(noise: Noise, *, n: int, se: float) -> np.ndarray:
    """How many true standard errors an effect must reach, for each variance that the fits may show. [K]"""
    of_items, of_fits = n - 1.0, noise.n_fits - 1.0
    by_item, by_fit = noise.items**2 / n, noise.fits**2 * _spreads(noise.n_fits)
    seen = by_item + by_fit
    share = by_fit / seen
    few, many = (stats.t.ppf(1 - LEVEL / 2, one) for one in (of_fits, max(of_items, of_fits)))
    return np.asarray((share * few + (1 - share) * many) * np.sqrt(seen) / se)


@lru_cache(maxsize=8)
def _spreads(n_fits: int) -> np.ndarray:
    """What runs of so many fits see of the variance between fits, over the true one, each as likely. [K]"""
    return np.asarray(stats.chi2.ppf((np.arange(200) + 0.5) / 200, n_fits - 1) / (n_fits - 1))


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
