"""How firm a verdict is: the share of resamples of its effects that give the same one. docs/numbers.md 10.

Near a threshold the same truth is called different things from one sample of items to the next. Shapes: L lines,
B draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from caa_bench.analysis.effects import Effects
from caa_bench.analysis.estimates import TAIL, Interval
from caa_bench.analysis.fits import Design, two_way
from caa_bench.analysis.verdict import SMALLEST, Evidence, verdict_of

DRAWS = 199
"""Resamples of the effects: the share is known to about .03."""
REFUSED = ("no verdict", "not measurable")


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How the effects of each line vary, over items and fits. All [L]

    Args:
        alone, on_top, both: the variances of A and T and their covariance.
        items: standard deviation of the per-item interaction, log-odds.
        fits: standard error that fits alone leave in the interaction, however many items there are; NaN with one fit.
    """

    alone: np.ndarray
    on_top: np.ndarray
    both: np.ndarray
    items: np.ndarray
    fits: np.ndarray


def spread_of(effects: Effects, *, on_top: Design, interaction: Design) -> Spread:
    """The variances of each line's effects.

    Args:
        effects: on the log-odds.
        on_top, interaction: the designs of these two effects.
    """
    found = {name: np.full(len(on_top.n_fits), np.nan) for name in ("alone", "on_top", "both", "items", "fits")}
    for (n_fits, lines, own), (_, _, of_both) in zip(on_top.by_fits(), interaction.by_fits(), strict=True):
        a, t, d = (x[:, lines, :n_fits] for x in (effects.alone, effects.on_top, effects.interaction))
        both = two_way(d, d, of_both)
        found["alone"][lines], found["on_top"][lines] = two_way(a, a, own).variance, two_way(t, t, own).variance
        found["both"][lines] = two_way(t, a, own).variance
        found["items"][lines] = np.sqrt(both.by_item * both.sums.n)
        found["fits"][lines] = np.sqrt(both.by_fit) if n_fits > 1 else np.nan
    return Spread(**found)


def verdict_stability(evidence: Sequence[Evidence], lines: Sequence[Mapping[str, float]], spread: Spread) -> np.ndarray:
    """The share of draws of (A, T) about their estimates, jointly normal, whose verdict is the line's own. [L]

    Intervals move with their points, the retention is worked out anew, and q keeps its ratio to p. NaN where there is
    no verdict, or a variance is not known.

    Args:
        evidence: of each line's verdict.
        lines: `interaction` and `p_value` of each.
    """
    drawn = np.random.default_rng(0).normal(size=(DRAWS, 2))
    return np.array(
        [
            _share(one, line, (spread.alone[place], spread.both[place], spread.on_top[place]), drawn)
            for place, (one, line) in enumerate(zip(evidence, lines, strict=True))
        ]
    )


def _share(e: Evidence, line: Mapping[str, float], variances: tuple[float, float, float], drawn: np.ndarray) -> float:
    own = verdict_of(e, vector="").verdict
    of_a, cov, of_t = variances
    if own.startswith(REFUSED) or not of_a > 0 or np.isnan(cov + of_t + e.alone.point):
        return float("nan")
    alone = np.sqrt(of_a) * drawn[:, 0]
    top = cov / np.sqrt(of_a) * drawn[:, 0] + np.sqrt(max(of_t - cov**2 / of_a, 0.0)) * drawn[:, 1]
    se = np.sqrt(max(of_a + of_t - 2 * cov, 0.0))
    stretch = line["q_value"] / line["p_value"] if line["p_value"] > 0 else 1.0
    z = np.abs(line["interaction"] + top - alone) / se if se > 0 else np.full(len(drawn), np.inf)
    q = np.minimum(2 * stats.norm.sf(z) * (1.0 if np.isnan(stretch) else stretch), 1.0)
    same = 0
    for move_a, move_t, chance in zip(alone, top, q, strict=True):
        moved_a, moved_t = _moved(e.alone, move_a), _moved(e.on_top, move_t)
        kept = _retention(moved_t, moved_a, variances)
        again = replace(e, alone=moved_a, on_top=moved_t, retention=kept, q=float(chance))
        same += verdict_of(again, vector="").verdict == own
    return same / len(drawn)


def _moved(span: Interval, by: float) -> Interval:
    return Interval(span.point + by, span.low + by, span.high + by)


def _retention(top: Interval, alone: Interval, variances: tuple[float, float, float]) -> Interval:
    """T / A with its Fieller interval (`fits.effect_ratios`), n/a where A is nothing."""
    of_a, cov, of_t = variances
    if not (alone.low > 0 and alone.point >= SMALLEST):
        return Interval(np.nan, np.nan, np.nan)
    quantile = max((alone.high - alone.low) ** 2 / (4 * of_a), stats.norm.ppf(1 - TAIL) ** 2)
    a, b = alone.point**2 - quantile * of_a, top.point * alone.point - quantile * cov
    root = np.sqrt(max(b**2 - a * (top.point**2 - quantile * of_t), 0.0))
    ends = ((b - root) / a, (b + root) / a) if a > 0 else (np.nan, np.nan)
    return Interval(top.point / alone.point, *ends)
