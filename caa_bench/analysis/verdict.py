"""The verdict on one stacking line, in words, and how firm it is, by docs/numbers.md 10-12: numbers in, a result out.

All effects are log-odds, signed so that + is where the multiplier pushes. A NaN end fails every comparison, so what is
not known never decides a verdict. Near a threshold the same truth is called different things from one sample of items
to the next: `verdict_stability` is the share of resamples that give the same one. Shapes: L lines, B draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from caa_bench.analysis.effects import Effects
from caa_bench.analysis.estimates import MIN_CLUSTERS, MIN_ITEMS, NOT_KNOWN, TAIL, Interval
from caa_bench.analysis.fits import Design, two_way
from caa_bench.analysis.power import FULLY, LEVEL

SMALLEST = 0.25
"""Log-odds: an effect below it is no effect worth a word."""
NOTHING = (-0.25, 0.25)
"""Retention: an interval inside it is "adds nothing"."""
ROOM = 0.05
"""Probability: less than this is left to move, or was moved."""
MEASURABLE, MASS_CAVEAT = 0.25, 0.10
"""Share of the items with an option mass under .5: above the first no verdict, above the second a caveat."""
LOCKED_CAVEAT = 0.25
"""Share of the items whose answer follows the letter: above it a caveat."""
SATURATED = 0.5
"""Share of the items beyond |y| = 8: above it the line is "saturated"."""
OPPOSITE = "opposite in words"
DRAWS = 199
"""Resamples of the effects: the share is known to about .03."""
NOT_MEASURABLE = "not measurable"
REFUSED = ("no verdict", NOT_MEASURABLE)
_LEAST_QUANTILE = float(stats.norm.ppf(1 - TAIL) ** 2)  # worked out here, as every draw of every line needs it


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a verdict is made of: one stacking line and the gates of the four cells it uses.

    Args:
        n / n_clusters: items and clusters behind the effects.
        alone: A, the vector alone.
        on_top: T, the vector on top of the base.
        retention: T / A with its Fieller interval; n/a where A is nothing.
        q: false-discovery rate of the interaction D within its family.
        p_before, p_after: mean p(matching) of the base without and with the vector.
        room: what is left for p to move, 0-1.
        mass_low_share, letter_locked, saturated_share: the worst of the cells used. (0-1)
        fits_disagree: whether seeds or resamples differ in the sign of T.
        n_fits: fits averaged.
        in_words: the same effect on the score of answers in words.
    """

    n: int
    n_clusters: int
    alone: Interval
    on_top: Interval
    retention: Interval
    q: float
    p_before: float
    p_after: float
    room: float
    mass_low_share: float
    letter_locked: float
    saturated_share: float
    fits_disagree: bool = False
    n_fits: int = 1
    in_words: Interval = NOT_KNOWN


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The verdict in words.

    Args:
        verdict: one of a closed set ("adds fully", "adds less", "works against", ...); docs/numbers.md lists it.
        tags: what qualifies it: "no room", "log-odds only (.00 -> .02)", "saturated", "opposite in words".
        caveats: gates that did not forbid a verdict.
    """

    verdict: str
    tags: tuple[str, ...]
    caveats: tuple[str, ...]

    @property
    def text(self) -> str:
        """Verdict and tags as one phrase; "no room" leads."""
        first = [tag for tag in self.tags if tag == "no room"]
        return "; ".join([*first, self.verdict, *(tag for tag in self.tags if tag != "no room")])


def verdict_of(evidence: Evidence, *, vector: str) -> Verdict:
    """Applies rules 10 (first match), 11 (room and tags) and 12 (gates).

    Args:
        vector: the name by which the verdict calls the vector.
    """
    refused = _refused(evidence, vector)
    verdict = refused or _log_odds_verdict(evidence, vector)
    return Verdict(verdict=verdict, tags=() if refused else _tags(evidence, verdict), caveats=_caveats(evidence))


def _refused(e: Evidence, vector: str) -> str | None:
    """What forbids a verdict: too little data, unmeasurable cells, fits that contradict each other."""
    if math.isnan(e.on_top.point):
        return "no verdict (no items)"
    if math.isnan(e.alone.point):
        return f"no verdict ({vector} alone was not run)"
    if e.n < MIN_ITEMS:
        return f"no verdict (n < {MIN_ITEMS})"
    if e.n_clusters < MIN_CLUSTERS:
        return f"no verdict ({e.n_clusters} clusters < {MIN_CLUSTERS})"
    if e.mass_low_share > MEASURABLE:
        return NOT_MEASURABLE
    if e.fits_disagree:
        return "not settled (fits disagree)"
    return None


def _log_odds_verdict(e: Evidence, vector: str) -> str:
    if not (e.alone.low > 0 and e.alone.point >= SMALLEST):
        return _nothing_alone(e, vector)
    if e.on_top.high < 0:
        return "works against"
    if e.retention.low >= FULLY[0] and e.retention.high <= FULLY[1]:
        return "adds fully"
    if e.retention.low >= NOTHING[0] and e.retention.high <= NOTHING[1]:
        return "adds nothing"
    interacts = e.q < LEVEL
    if interacts and e.retention.high < 1:
        return "adds less" if e.on_top.low > 0 else "not settled"
    if interacts and e.retention.low > 1:
        return "adds more"
    return "adds, share not settled" if e.on_top.low > 0 else "not settled"


def _nothing_alone(e: Evidence, vector: str) -> str:
    """The vector alone has no effect worth a word in the direction of its multiplier."""
    if e.alone.high < 0:
        return f"{vector} alone goes the wrong way"
    if e.on_top.low > 0 and e.on_top.point >= SMALLEST:
        # Two effects on either side of the threshold may be one and the same: only an interaction tells them apart.
        return "adds only here" if e.q < LEVEL else "not settled"
    if e.on_top.high < 0 and e.on_top.point <= -SMALLEST:
        return "works against"
    return f"{vector} does nothing alone"


def _tags(e: Evidence, verdict: str) -> tuple[str, ...]:
    tags = []
    if e.room < ROOM:
        tags.append("no room")
    if verdict.startswith("adds") and verdict != "adds nothing" and abs(e.p_after - e.p_before) < ROOM:
        tags.append(f"log-odds only ({_levels_text(e.p_before, e.p_after)})")
    if e.saturated_share > SATURATED:
        tags.append("saturated")
    if opposite((e.on_top.low, e.on_top.high), (e.in_words.low, e.in_words.high)):
        tags.append(OPPOSITE)
    return tuple(tags)


def opposite(one: tuple[float, float], two: tuple[float, float]) -> bool:
    """Whether two intervals lie on different sides of 0. Points say nothing: below 20 items there is no interval."""
    return (one[0] > 0 and two[1] < 0) or (one[1] < 0 and two[0] > 0)


def _caveats(e: Evidence) -> tuple[str, ...]:
    caveats = []
    if MASS_CAVEAT < e.mass_low_share <= MEASURABLE:
        caveats.append(f"option mass under .5 on {e.mass_low_share:.0%} of the items")
    if e.letter_locked > LOCKED_CAVEAT:
        caveats.append(f"answers follow the letter on {e.letter_locked:.0%} of the items")
    if e.n_fits == 1:
        caveats.append("one seed: fit noise unknown")
    return tuple(caveats)


def _levels_text(before: float, after: float) -> str:
    """ ".00 -> .02"; a third digit where two would look alike."""
    digits = 2 if f"{before:.2f}" != f"{after:.2f}" else 3
    return " -> ".join(f"{p:.{digits}f}".removeprefix("0") for p in (before, after))


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
    quantile = max((alone.high - alone.low) ** 2 / (4 * of_a), _LEAST_QUANTILE)
    a, b = alone.point**2 - quantile * of_a, top.point * alone.point - quantile * cov
    root = np.sqrt(max(b**2 - a * (top.point**2 - quantile * of_t), 0.0))
    ends = ((b - root) / a, (b + root) / a) if a > 0 else (np.nan, np.nan)
    return Interval(top.point / alone.point, *ends)
