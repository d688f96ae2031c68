"""Vectors that mean nothing, beside a vector in the run: `draws` of a kind are a null distribution.

What they do anyway is what an effect has to be larger than (`analysis.placebos`). Every vector method gets its own.
`shuffled` asks whether the labels make the effect: it is as long as the method makes it from labels that say nothing.
The other kinds ask whether any push of this size does as much: they have the norm of the vector they stand beside.
Shapes: L layers, D hidden size.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from caa_bench.errors import UserError
from caa_bench.interventions.base import Condition, Intervention
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


ZERO = 1e-30
"""Divides nothing by nothing without a NaN; below every length that there is."""
PLAIN = "caa"
"""The vector whose placebos have short labels, `random` and `shuffled`; of another one `random_<its label>`."""
ENOUGH = 19
"""Draws with which a vector that means nothing is larger than all of them in 1 of 20 runs."""


def placebo_label(name: str, original: str) -> str:
    """`random` beside CAA, `random_mine` beside `mine`."""
    return name if original == PLAIN else f"{name}_{original}"


class Placebo(SteeringVector):
    """A vector with the grid and the layers of another one, whose placebo it is: `RandomDirection(original=caa)`.

    Args:
        config: its recipe section.
        original: the vector it stands beside; fitted before this one is.
        **settings: the recipe section's keys.
    """

    is_placebo = True
    own_length = False
    """Whether it is as long as the method makes it; else it has the original's norm in every layer."""
    grid = ("placebo_of", "draws")
    draw = 1
    """Which of the draws this is, from 1."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """A placebo's recipe section; everything else follows the vector that it stands beside.

        Args:
            seed: of the directions or the shuffles.
            draws: how many; they cost rows on the unchanged model alone. With fewer than 19 nothing is said to be
                beyond them.
            placebo_of: the vectors that get them; empty: every vector in the run.
        """

        seed: int = 0
        draws: int = ENOUGH
        placebo_of: tuple[str, ...] = ()

        def __post_init__(self) -> None:
            if self.draws < 1:
                raise ValueError(f"draws: {self.draws} is no number of placebos; give 1 or more, or leave them out")

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
        return cls._again(settings, original=original)

    @classmethod
    def _again(cls, settings: Mapping[str, Any], *, original: SteeringVector) -> Self:
        made = cls(cls.Config(seed=settings["seed"]), original=original)
        made.draw = settings["draw"]
        return made

    def another_fit(self, number: int, *, made: Mapping[str, Intervention]) -> Intervention | None:
        """The same placebos for all fits, of the norm of the original's first."""
        original = made.get(self.placebo_of, self.original)
        if number > 1 or not isinstance(original, SteeringVector):
            return None
        return type(self)(self.config, original=original)

    def every_draw(self) -> list[Self]:
        """One placebo a draw, this one first; `number` tells them apart in keys and tables."""
        if self.config.draws == 1:
            return [self]
        found = [self, *(copy.copy(self) for _ in range(1, self.config.draws))]
        for draw, one in enumerate(found, 1):
            one.draw, one.number = draw, str(draw)
        return found

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
        """The seed, the draw and the original's settings."""
        return super().settings() | {"draw": self.draw, "original": self.original.settings()}

    def shares(self) -> list[float | None]:
        """How long it is where each layer is steered, over the original; None where that one has no length. [L]"""
        found = []
        for layer in range(len(self.fitted())):
            taken = self.original.vector_layer(Condition(layer=layer))
            own, true = (float(one.fitted()[taken].norm()) for one in (self, self.original))
            found.append(float(f"{own / true:.6g}") if true else None)
        return found

    def _seed(self, pairs: Pairs) -> int:
        """Of this draw: of the seed alone, every behavior of a run would have the same placebos."""
        return content_seed([self.name, self.config.seed, self.draw, pairs.behavior, self.placebo_of])

    def _rescaled(self, direction: Tensor) -> Tensor:
        """`direction` with the original's norm in every layer. [L, D]"""
        norms = self.original.fitted().norm(dim=-1, keepdim=True)
        return direction / direction.norm(dim=-1, keepdim=True).clamp_min(ZERO) * norms


class RandomDirection(Placebo):
    """A seeded Gaussian direction, another one for every draw, layer, behavior and vector.

    The weakest null: a model's activations hardly vary along such a direction, so that little comes of it.

    Example:
        >>> from caa_bench import CAA, RandomDirection
        >>> RandomDirection(original=CAA()).placebo_of
        'caa'
    """

    name = "random"

    def fit(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> None:
        """Draw it; the model is not used."""
        import torch

        self.beside = self.original.beside
        generator = torch.Generator().manual_seed(self._seed(pairs))
        self.vectors = self._rescaled(torch.randn(self.original.fitted().shape, generator=generator))


class CovarianceDirection(Placebo):
    """A Gaussian direction with the covariance, over items, of the training pairs' own differences.

    sum_i g_i (d_i - mean d), g_i standard normal and d_i item i's difference, the mean over its option orders: it goes
    where the pairs differ from each other, and the model reacts to it far more than to a direction of any kind.

    Example:
        >>> from caa_bench import CAA, CovarianceDirection
        >>> CovarianceDirection(original=CAA()).placebo_of
        'caa'
    """

    name = "covariance"

    def fit(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> None:
        """Weigh the differences at the answer letter, whatever the original makes of them.

        Raises:
            UserError: the original is something else than one direction a layer of a block's output.
        """
        from caa_bench.interventions.activations import read_activations

        self.beside = self.original.beside
        places = self.original.edits(Condition(layer=0)) or []
        if self.original.fitted().dim() != 2 or any(edit.site != "block" for edit in places):
            raise UserError(
                f"{self.label}: {self.original.label} is not one direction of a block's output, as the pairs' "
                f"differences are; leave it out of {self.name}.placebo_of, or take random or shuffled"
            )
        own = self.original.own_pairs(pairs)
        kept = getattr(self.original, "activations", None) or read_activations(model, tokenizer, own)
        generator, items = random.Random(self._seed(pairs)), list(dict.fromkeys(pair.item for pair in own))  # noqa: S311
        drawn = {item: generator.gauss(0.0, 1.0) for item in items}
        middle = sum(drawn[pair.item] for pair in own) / len(own)  # the weights sum to 0, which centers the differences
        self.vectors = self._rescaled(kept.mean_difference(signs=[drawn[pair.item] - middle for pair in own]))
