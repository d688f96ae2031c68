"""Vectors that should do nothing: a random direction and shuffled labels, each of the norm of a vector in the run.

What they do anyway is the noise floor that an effect has to clear. Every vector method gets its own.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from caa_bench.errors import UserError
from caa_bench.interventions.base import Intervention
from caa_bench.interventions.parts import Ingredient, Source
from caa_bench.interventions.saving import revived
from caa_bench.interventions.vectors import SteeringVector
from caa_bench.models.layers import Layers
from caa_bench.storage.files import content_seed

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from caa_bench.behaviors.behavior import Behavior, Pairs
    from caa_bench.engine.edit import Edit
    from caa_bench.interventions.base import Condition


NOTHING = 1e-5
"""Of the vector's own norm: less than that is rounding."""
ZERO = 1e-30
"""Divides nothing by nothing without a NaN; below every length that there is."""
PLAIN = "caa"
"""The vector whose placebos have short labels, `random` and `shuffled`; of another one `random_<its label>`."""


def placebo_label(name: str, original: str) -> str:
    """`random` beside CAA, `random_mine` beside `mine`."""
    return name if original == PLAIN else f"{name}_{original}"


class Placebo(SteeringVector):
    """A vector with the grid, the layers and, per layer, the norm of another one: `RandomDirection(original=caa)`.

    Args:
        config: its recipe section.
        original: the vector it stands beside; fitted before this one is.
        **settings: the recipe section's keys.
    """

    is_placebo = True
    grid = ("placebo_of",)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Recipe sections `random` and `shuffled`; everything else follows the vector they stand beside.

        Args:
            seed: of the direction or the shuffle.
            placebo_of: the vectors that get one; empty: every vector in the run.
        """

        seed: int = 0
        placebo_of: tuple[str, ...] = ()

    def __init__(self, config: Any = None, *, variant: str = "", original: SteeringVector, **settings: Any) -> None:
        super().__init__(config, variant="" if original.label == PLAIN else original.label, **settings)
        self.original = original
        self.placebo_of = original.label

    @classmethod
    def build(cls, config: Any, *, variant: str, behavior: Behavior, built: Mapping[str, Intervention]) -> Intervention:
        """Beside the vector that the label names: `random` beside CAA, `random_mine` beside `mine`."""
        named = variant or PLAIN
        original = built.get(named)
        if not isinstance(original, SteeringVector):
            raise UserError(f"vectors: {cls.name} is a placebo of {named}; add {named} to vectors")
        return cls(config, original=original)

    @classmethod
    def revive(cls, settings: Mapping[str, Any], *, variant: str) -> Self:
        """With a vector of the original's settings, itself unfitted."""
        original = revived(settings["original"], base=SteeringVector)
        if original is None:
            raise UserError(
                f"{cls.name}: it is a placebo of a {settings['original'].get('name')!r}, which is not known here; "
                "import the file that defines it first"
            )
        if variant and variant != original.label:
            original.named(variant)
        return cls(cls.Config(seed=settings["seed"]), original=original)

    def another_fit(self, number: int, *, made: Mapping[str, Intervention]) -> Intervention | None:
        """One placebo for all fits, of the norm of the original's first: a mean of several hides what each does."""
        original = made.get(self.placebo_of, self.original)
        if number > 1 or not isinstance(original, SteeringVector):
            return None
        return type(self)(self.config, original=original)

    def conditions(self, layers: Layers) -> list[Condition]:
        """The original's grid."""
        return self.original.conditions(layers)

    def edits(self, condition: Condition) -> list[Edit] | None:
        """The original's own kind of edit, at its places, along this vector."""
        stand_in = copy.copy(self.original)
        stand_in.vectors, stand_in.beside = self.fitted(), self.beside
        return stand_in.edits(condition)

    def ingredients(self, pairs: Pairs) -> list[Ingredient]:
        """The original's: its norms, and so this vector, depend on them."""
        return self.original.ingredients(pairs)

    def learned_from(self, pairs: Pairs) -> dict[str, str]:
        """What the original learns from."""
        return self.original.learned_from(pairs)

    def vector_layer(self, condition: Condition) -> int | None:
        """The original's."""
        return self.original.vector_layer(condition)

    def source(self, condition: Condition, *, behavior: str) -> Source:
        """The original's."""
        return self.original.source(condition, behavior=behavior)

    @property
    def acts(self) -> str:
        """As the original does."""
        return self.original.acts

    def settings(self) -> dict[str, Any]:
        """The seed and the original's settings."""
        return super().settings() | {"original": self.original.settings()}

    def _rescaled(self, direction: Tensor) -> Tensor:
        """`direction` with the original's norm in every layer. [L, D]"""
        norms = self.original.fitted().norm(dim=-1, keepdim=True)
        return direction / direction.norm(dim=-1, keepdim=True).clamp_min(ZERO) * norms


class RandomDirection(Placebo):
    """A seeded Gaussian direction, another one for every layer, behavior and vector."""

    name = "random"

    def fit(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> None:
        """Draw it; the model is not used."""
        import torch

        self.beside = self.original.beside

        # Of the seed alone, every behavior of a run would have the same direction, and their placebos one draw.
        seed = content_seed([self.config.seed, pairs.behavior, self.placebo_of])
        generator = torch.Generator().manual_seed(seed)
        self.vectors = self._rescaled(torch.randn(self.original.fitted().shape, generator=generator))

    def settings(self) -> dict[str, Any]:
        """With how it is drawn, so that an artifact that was drawn otherwise is not taken for this one."""
        return super().settings() | {"drawn_by": "seed, behavior, vector"}


class ShuffledLabels(Placebo):
    """The original's method on shuffled labels: for a random half of the items "matching" and "other" are exchanged.

    Exactly half, and what is still left of the true direction by chance is taken out: rescaling would blow the
    remainder up, and the noise floor would be made of the effect that has to clear it. Both option orders of an item
    together: what the letters themselves add stays balanced, as it is for the original.
    """

    name = "shuffled"

    def fit(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> None:
        """What the original's method gives on the exchanged pairs.

        Raises:
            UserError: the pairs differ in nothing but the true direction, so that no other is left.
        """
        items = list(dict.fromkeys(pair.item for pair in self.original.own_pairs(pairs)))
        exchanged = set(random.Random(self.config.seed).sample(items, len(items) // 2))  # noqa: S311 - a draw
        self.beside = self.original.beside
        drawn = self.original.exchanged_vectors(model, tokenizer, pairs, exchanged=exchanged)
        true = self.original.fitted()
        along = (drawn * true).sum(-1, keepdim=True) / true.pow(2).sum(-1, keepdim=True).clamp_min(ZERO)
        left, size = drawn - along * true, true.norm(dim=-1)
        # where the method has no vector, neither has the placebo
        if ((left.norm(dim=-1) <= NOTHING * size) & (size > 0)).any():
            raise UserError(
                f"{self.label}: {len(items)} training items leave no direction but the true one; give more and "
                "different ones, or take shuffled out of vectors"
            )
        self.vectors = self._rescaled(left)
