"""Vectors that should do nothing: a random direction and shuffled labels, each of the CAA vector's own norm.

What they do anyway is the noise floor that an effect has to clear.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from caa_bench.errors import UserError
from caa_bench.interventions.base import Condition, Ingredient, Intervention, Source
from caa_bench.interventions.caa import CAA
from caa_bench.interventions.vectors import SteeringVector
from caa_bench.models.layers import Layers

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from caa_bench.behaviors.behavior import Behavior, Pairs


NOTHING = 1e-5
"""Of the vector's own norm: less than that is rounding."""


class Placebo(SteeringVector):
    """A vector with the grid, the layers and, per layer, the norm of a CAA intervention.

    Args:
        config: its recipe section.
        original: the CAA intervention it stands beside; fitted before this one is.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Recipe sections `random` and `shuffled`; everything else follows `caa`.

        Args:
            seed: of the direction or the shuffle.
        """

        seed: int = 0

    def __init__(self, config: Any = None, *, variant: str = "", original: CAA) -> None:
        super().__init__(config, variant=variant)
        self.original = original

    @classmethod
    def build(cls, config: Any, *, variant: str, behavior: Behavior, built: Mapping[str, Intervention]) -> Intervention:
        """Beside the recipe's own CAA."""
        original = built.get(cls.placebo_of)
        if not isinstance(original, CAA):
            raise UserError(f"vectors: {cls.name} is a placebo of {cls.placebo_of}; add {cls.placebo_of} to vectors")
        return cls(config, original=original)

    @classmethod
    def revive(cls, settings: Mapping[str, Any], *, variant: str) -> Intervention:
        """With a CAA of the original's settings, itself unfitted."""
        original = dict(settings["original"])
        source = CAA.revive({k: v for k, v in original.items() if k not in ("name", "variant")}, variant="")
        assert isinstance(source, CAA)  # noqa: S101 - narrows the type for mypy
        return cls(cls.Config(seed=settings["seed"]), original=source)

    def another_fit(self, number: int, *, made: Mapping[str, Intervention]) -> Intervention:
        """One placebo for all fits, of the norm of the original's first: a mean of several hides what each does."""
        original = made[self.placebo_of]
        if number == 1 and isinstance(original, CAA):
            self.original = original
        return self

    def conditions(self, layers: Layers) -> list[Condition]:
        """The original's grid."""
        return self.original.conditions(layers)

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

    def settings(self) -> dict[str, Any]:
        """The seed and the original's settings."""
        return super().settings() | {"original": self.original.settings()}

    def _rescaled(self, direction: Tensor) -> Tensor:
        """`direction` with the original's norm in every layer. [L, D]"""
        norms = self.original.fitted().norm(dim=-1, keepdim=True)
        return direction / direction.norm(dim=-1, keepdim=True) * norms


class RandomDirection(Placebo):
    """A seeded Gaussian direction, another one for every layer."""

    name = "random"
    placebo_of = "caa"

    def fit(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> None:
        """Draw it; the model is not used."""
        import torch

        generator = torch.Generator().manual_seed(self.config.seed)
        self.vectors = self._rescaled(torch.randn(self.original.fitted().shape, generator=generator))


class ShuffledLabels(Placebo):
    """The CAA recipe on shuffled labels: for a random half of the items "matching" and "other" are exchanged.

    Exactly half, and what is still left of the true direction by chance is taken out: rescaling would blow the
    remainder up, and the noise floor would be made of the effect that has to clear it. Both option orders of an item
    together: what the letters themselves add stays balanced, as it is for CAA.
    """

    name = "shuffled"
    placebo_of = "caa"

    def fit(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> None:
        """Average the original's differences with shuffled signs.

        Raises:
            UserError: the pairs differ in nothing but the true direction, so that no other is left.
        """
        labeled = self.original.own_pairs(pairs)
        activations = self.original.activations or self.original.read_activations(model, tokenizer, pairs)
        items = list(dict.fromkeys(pair.item for pair in labeled))
        flipped = set(random.Random(self.config.seed).sample(items, len(items) // 2))  # noqa: S311 - a draw, not a secret
        signs = [-1.0 if pair.item in flipped else 1.0 for pair in labeled]
        drawn, true = activations.mean_difference(signs=signs), self.original.fitted()
        left = drawn - (drawn * true).sum(-1, keepdim=True) / true.pow(2).sum(-1, keepdim=True) * true
        if (left.norm(dim=-1) <= NOTHING * true.norm(dim=-1)).any():
            raise UserError(
                f"shuffled: {len(items)} training items leave no direction but the true one; give more and different "
                "ones, or take shuffled out of vectors"
            )
        self.vectors = self._rescaled(left)
