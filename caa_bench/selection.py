"""A selection split out of a train split, for data that have none: seeded, letter-balanced, kept out of the fit."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from caa_bench.items import Item

SHARE = 0.2


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A train split in two, each in the order of the file."""

    train: tuple[Item, ...]
    selection: tuple[Item, ...]


def draw_selection(items: Sequence[Item], *, seed: str) -> Drawn:
    """Draw 20% of the items, as many with (A) as with (B) matching, rarer letters only to fill up.

    Args:
        seed: any text; the same one always draws the same items.

    Raises:
        ValueError: fewer than two of either letter, so that nothing balanced can be drawn and left.
    """
    size = round(SHARE * len(items))
    shuffled = random.Random(seed).sample(range(len(items)), len(items))  # noqa: S311 - a draw, not a secret
    keyed = [[index for index in shuffled if items[index].matching == letter] for letter in (0, 1)]
    half = min(size // 2, len(keyed[0]) // 2, len(keyed[1]) // 2)
    if half == 0:
        raise ValueError(
            f"{len(items)} items, {len(keyed[0])} with (A) and {len(keyed[1])} with (B) matching, are too few to draw "
            "a selection split from; give 10 or more, letters balanced, or set protocol=caa"
        )
    chosen = keyed[0][:half] + keyed[1][:half]
    chosen += [index for index in shuffled if items[index].matching > 1][: size - len(chosen)]
    taken = set(chosen)
    return Drawn(
        train=tuple(item for index, item in enumerate(items) if index not in taken),
        selection=tuple(items[index] for index in sorted(taken)),
    )
