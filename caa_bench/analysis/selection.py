"""The interval of the largest of several effects that were compared on the same items. docs/numbers.md 6.

The largest of k estimates is the one that chance favored most: with 16 equal ones its own 95% interval covers in two of
three runs. An interval that covers all k at once covers whichever is the largest.
"""

from __future__ import annotations

import math

from scipy import stats

from caa_bench.analysis.estimates import TAIL, Interval


def among(span: Interval, *, tries: int, df: float = math.inf) -> Interval:
    """The 95% interval of one effect as one of `tries`: each half is as much longer as the corrected t quantile is.

    Bonferroni's bound, at or above 95% however the effects depend on each other, and close to it where they do not.
    What was chosen on other items (the selection split) needs no correction.

    Args:
        tries: effects that it was chosen from, itself included.
        df: degrees of freedom of its standard error.

    Raises:
        ValueError: fewer than one.
    """
    if tries < 1:
        raise ValueError(f"tries ({tries}) must be 1 or more")
    longer = stats.t.ppf(1 - TAIL / tries, df) / stats.t.ppf(1 - TAIL, df)
    return Interval(
        span.point,
        span.point - (span.point - span.low) * longer,
        span.point + (span.high - span.point) * longer,
    )
