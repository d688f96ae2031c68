"""Placebos of shuffled labels: what a vector's own method makes where the labels of its pairs say nothing.

Shapes: L layers, D hidden size.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from caa_bench.errors import UserError
from caa_bench.interventions.placebos import ENOUGH, ZERO, Placebo
from caa_bench.storage.files import content_seed

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from caa_bench.behaviors.behavior import Pairs


NOTHING = 1e-5
"""Of the vector's own norm: less than that is rounding."""


class ShuffledLabels(Placebo):
    """The original's method on shuffled labels: for a random half of the items "matching" and "other" are exchanged.

    What any vector made in this way from these texts does: the null of a permutation test of the labels. Exactly half,
    since an unbalanced draw holds the true direction, up to all of it, and both option orders of an item together, so
    that what the letters themselves add stays balanced as it is for the original. No two draws divide the items in the
    same way.

    It keeps the length that the method gives it. Were the labels to say nothing, the original would be no longer than
    this; where they agree, it is several times as long. Brought to the original's norm, a draw would be a placebo no
    more: what is left where all items agree is how much MORE one item differs than another, which lies along the true
    direction (cosines up to .9 on Qwen2.5-Coder-0.5B, from vectors .09 as long as CAA's).

    Example:
        >>> from caa_bench import CAA, ShuffledLabels
        >>> ShuffledLabels(original=CAA()).placebo_of
        'caa'
    """

    name = "shuffled"
    own_length = True

    def fit(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> None:
        """What the original's method gives on the exchanged pairs.

        Raises:
            UserError: too few training items for so many draws, or what is left has no direction.
        """
        items = list(dict.fromkeys(pair.item for pair in self.original.own_pairs(pairs)))
        exchanged, true = self._half(items, pairs), self.original.fitted()
        self.beside = self.original.beside
        drawn = self._direction(self.original.exchanged_vectors(model, tokenizer, pairs, exchanged=exchanged))
        size = true.norm(dim=-1)
        # where the method has no vector, neither has the placebo
        if ((drawn.norm(dim=-1) <= NOTHING * size) & (size > 0)).any():
            raise UserError(
                f"{self.label}: {len(items)} training items leave no direction but the true one; give more and "
                f"different ones, or take {self.name} out of vectors"
            )
        self.vectors = drawn if self.own_length else self._rescaled(drawn)

    def settings(self) -> dict[str, Any]:
        """With the length, which decides what the vector does."""
        return super().settings() | ({"length": "own"} if self.own_length else {})

    def _half(self, items: Sequence[str], pairs: Pairs) -> set[str]:
        """The items of this draw: of one sequence of halves in which none comes twice."""
        size = len(items) // 2
        ways = math.comb(len(items), size) // (1 if len(items) % 2 else 2)  # a half and the other half are one division
        if self.draw > ways:
            raise UserError(
                f"{self.name}.draws: {len(items)} training items can be divided in {ways} ways only; give more items, "
                f"or draws={ways} (below {ENOUGH} nothing is said to be beyond placebos)"
            )
        generator = random.Random(content_seed(["halves", self.config.seed, pairs.behavior]))  # noqa: S311 - a draw
        seen: dict[frozenset[str], None] = {}
        while len(seen) < self.draw:
            half = frozenset(generator.sample(items, size))
            if len(items) % 2 or frozenset(items) - half not in seen:
                seen.setdefault(half)
        return set(list(seen)[-1])

    def _direction(self, drawn: Tensor) -> Tensor:
        """The drawn vectors as they are. [L, D]"""
        return drawn


class OrthogonalShuffle(ShuffledLabels):
    """Shuffled labels without what is left of the true direction, at the original's norm.

    It answers "what else do these texts push, this far?", and knows the true direction, which an honest null must not.

    Example:
        >>> from caa_bench import CAA, OrthogonalShuffle
        >>> OrthogonalShuffle(original=CAA()).placebo_of
        'caa'
    """

    name = "orthogonal"
    own_length = False

    def _direction(self, drawn: Tensor) -> Tensor:
        true = self.original.fitted()
        along = (drawn * true).sum(-1, keepdim=True) / true.pow(2).sum(-1, keepdim=True).clamp_min(ZERO)
        return drawn - along * true
