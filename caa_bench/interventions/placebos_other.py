"""Vectors of other behaviors at the norm of the measured one's: what any such vector does here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Self

from caa_bench.errors import UserError
from caa_bench.interventions.placebos import Placebo

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from caa_bench.behaviors.behavior import Behavior, Pairs
    from caa_bench.interventions.base import Intervention
    from caa_bench.interventions.vectors import SteeringVector


class OtherBehaviors(Placebo):
    """The original's method on the pairs of another behavior, a draw a behavior, rescaled to the original's norm.

    It asks whether the effect is this behavior's or one that a meaningful vector has anyway (agreeing, caution, a
    letter). These vectors mean something, and may move the behavior because the two have to do with each other: a band
    to look at, not a null. There are fewer than 19 of them, so nothing is ever said to be beyond them.

    Example:
        >>> from caa_bench import CAA, OtherBehaviors
        >>> OtherBehaviors(original=CAA(), behaviors=["sycophancy", "hallucination"]).placebo_of
        'caa'
    """

    name = "other_behaviors"
    grid = ("placebo_of", "behaviors")

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Recipe section `other_behaviors`.

        Args:
            behaviors: whose vectors, from the same data as the measured one's; empty: every shipped behavior but that.
            placebo_of: the vectors that get them; empty: every vector in the run.
        """

        behaviors: tuple[str, ...] = ()
        placebo_of: tuple[str, ...] = ()

        @property
        def draws(self) -> int:
            """One a behavior."""
            return len(self.behaviors)

    @classmethod
    def build(cls, config: Any, *, variant: str, behavior: Behavior, built: Mapping[str, Intervention]) -> Intervention:
        """Beside the vector that the label names, of every other behavior where the section names none."""
        from caa_bench.behaviors.folders import behavior_names

        named = tuple(name for name in config.behaviors or behavior_names() if name != behavior.id)
        if not named:
            raise UserError(f"{cls.name}.behaviors: {behavior.id} is the measured one; name another behavior")
        return super().build(replace(config, behaviors=named), variant=variant, behavior=behavior, built=built)

    @classmethod
    def _again(cls, settings: Mapping[str, Any], *, original: SteeringVector) -> Self:
        made = cls(cls.Config(behaviors=(settings["behavior"],)), original=original)
        made.draw = 1
        return made

    @property
    def drawn(self) -> str:
        """The behavior whose vector this draw is.

        Raises:
            UserError: none is named.
        """
        if not self.config.behaviors:
            raise UserError(f"{self.name}.behaviors: none is named; give those whose vectors are to be compared with")
        return str(self.config.behaviors[self.draw - 1])

    def settings(self) -> dict[str, Any]:
        """The behavior and the original's settings; the number of the draw says nothing more."""
        kept = super().settings() | {"behavior": self.drawn}
        return {key: value for key, value in kept.items() if key != "draw"}

    def learned_from(self, pairs: Pairs) -> dict[str, str]:
        """What the original learns from, for its norm, and the other behavior's pairs."""
        return {**super().learned_from(pairs), self.drawn: pairs.of(self.drawn).key}

    def fit(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> None:
        """What the original's method gives on the other behavior's pairs.

        Raises:
            UserError: there is no such behavior in the same data.
        """
        config = self.original.config
        if "vector_behavior" in {field.name for field in fields(config)}:
            config = replace(config, vector_behavior="")
        other = type(self.original)(config, variant=self.original.variant)
        other.fit(model, tokenizer, pairs.of(self.drawn))
        self.beside = self.original.beside
        self.vectors = self._rescaled(other.fitted())
