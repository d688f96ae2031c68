"""How good a text still is, from its words alone: repetition fools judges, and steering too hard makes it."""

from __future__ import annotations

import math


def distinct(text: str, n: int) -> float:
    """Share of different n-grams among all of a text's word n-grams (Li et al. 2016); NaN with fewer than n words."""
    words = text.lower().split()
    grams = [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else math.nan


def loop_share(text: str) -> float:
    """Share of the words in the longest loop: a stretch that says the same one or more words over and over.

    A stretch of period p counts from two whole rounds on, or three where p is 1 ("very very" is no loop). 0 without
    any; NaN without words.
    """
    words = text.lower().split()
    longest = 0
    for period in range(1, len(words) // 2 + 1):
        run = 0
        for place in range(period, len(words)):
            run = run + 1 if words[place] == words[place - period] else 0
            if run >= max(period, 2):
                longest = max(longest, run + period)
    return longest / len(words) if words else math.nan
