"""Draws of training items: a part of them (`max_pairs`), or a resample. An item keeps both its option orders."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from caa_bench.behaviors.items import Pair

ENOUGH_ITEMS = 20
"""With fewer items the intervals of the vector's diagnostics say next to nothing (analysis.diagnostics)."""


def drawn_pairs(pairs: Sequence[Pair], count: int | None, *, seed: str) -> tuple[Pair, ...]:
    """At most `count` pairs, whole items, in their own order; a smaller draw is a part of a larger one.

    Items with the same letters matching form a group, and the groups take turns: among items that are asked in one
    order alone, (A) and (B) match equally often, up to one.

    Args:
        count: None: all.
        seed: of the draw.
    """
    if count is None or count >= len(pairs):
        return tuple(pairs)
    items: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        items[pair.item].append(pair)
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for item, own in items.items():
        groups[tuple(sorted(pair.matching for pair in own))].append(item)
    rng = random.Random(seed)  # noqa: S311 - a draw, not a secret
    for _, names in sorted(groups.items()):
        rng.shuffle(names)
    waiting, chosen, left = [names for _, names in sorted(groups.items())], set(), count
    while waiting and left >= min(len(items[names[-1]]) for names in waiting):
        for names in waiting:
            if len(items[names[-1]]) <= left:
                chosen.add(names[-1])
                left -= len(items[names.pop()])
        waiting = [names for names in waiting if names]
    return tuple(pair for pair in pairs if pair.item in chosen)


def too_few_warning(pairs: Sequence[Pair], count: int | None) -> tuple[str, ...]:
    """What is missed with so few, in a line; nothing where all pairs are used or the items suffice."""
    items = len({pair.item for pair in pairs})
    if count is None or items >= ENOUGH_ITEMS:
        return ()
    return (
        f"max_pairs: {len(pairs)} training pairs are {items} items; with fewer than {ENOUGH_ITEMS} it is hardly known "
        "how far the pairs agree (under 10 there is no interval)",
    )


def resampled_places(pairs: Sequence[Pair], *, number: int) -> list[int] | None:
    """Places of the pairs of as many items, drawn with replacement; both option orders of an item stay together."""
    if not number:
        return None
    places: dict[str, list[int]] = {}
    for place, pair in enumerate(pairs):
        places.setdefault(pair.item, []).append(place)
    items = list(places)
    drawn = random.Random(number).choices(items, k=len(items))  # noqa: S311 - a draw, not a secret
    return [place for item in drawn for place in places[item]]
