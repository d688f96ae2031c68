"""The verdict on one stacking line, in words, by the rules of docs/numbers.md 10-12: numbers in, a named result out.

All effects are log-odds, signed so that + is where the multiplier pushes. A NaN end fails every comparison, so what is
not known never decides a verdict.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from caa_bench.analysis.estimates import MIN_CLUSTERS, MIN_ITEMS, NOT_KNOWN, Interval
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
        return "not measurable"
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
