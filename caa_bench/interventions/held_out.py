"""The pairs that a training measures its loss on and does not learn from."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from caa_bench.behaviors.behavior import Pair

HELD_OUT = 0.1
"""Share of the items whose pairs are not trained on."""
ENOUGH_ITEMS = 10
"""With fewer, all are trained on."""


def split_held_out(pairs: Sequence[Pair], *, seed: int) -> tuple[list[Pair], list[Pair]]:
    """The pairs to train on and a tenth to measure the loss on: whole items, so that no pair has a twin in training."""
    items = list(dict.fromkeys(pair.item for pair in pairs))
    count = round(HELD_OUT * len(items)) if len(items) >= ENOUGH_ITEMS else 0
    held = set(random.Random(seed).sample(items, count))  # noqa: S311 - a draw, not a secret
    return [pair for pair in pairs if pair.item not in held], [pair for pair in pairs if pair.item in held]
