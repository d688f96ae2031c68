"""Steered answers in the model's own words: a base, CAA on top of it, several multipliers decoded as rows of one batch.

What `caa-bench generate`, `caa-bench chat` and `caa-bench serve` share. Knows nothing of terminals.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from caa_bench.benchmark import Benchmark
from caa_bench.commands.continuing import continuations, refuse_what_is_no_text, room_of
from caa_bench.errors import UserError
from caa_bench.interventions import Condition, Intervention, registry
from caa_bench.recipe import load_recipe
from caa_bench.runs.tuning_arms import settled_bases
from caa_bench.runs.tuning_grid import first_fits, settled

if TYPE_CHECKING:
    from caa_bench.behaviors.behavior import Behavior
    from caa_bench.engine.edit import Edit
    from caa_bench.models.model import ChatModel
    from caa_bench.models.prompts import Message, Prompt


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is steered, and how.

    Args:
        recipe: where settings come from that are not named here; the same ones find the same artifacts.
        changes: `key=value` texts over the recipe.
        behavior / model: None for the recipe's own.
        layer: the block to steer; None for the recipe's first.
        max_new_tokens: length limit of an answer.
        progress: False prints nothing while something is fitted.
        bases / vectors: what is made ready beside the session's own base and `caa`, as in a recipe.
        settled: label -> layer, and the multiplier that the recipe's 1 stands for, as a run found them.
        below: label -> the text or the dose of a base that a run's search chose in place of its recipe's.
        doses: those to show where nobody names others; empty: the vector's own, one a direction.
    """

    recipe: str = "compare"
    changes: tuple[str, ...] = ()
    behavior: str | None = None
    model: str | None = None
    layer: int | None = None
    max_new_tokens: int = 100
    progress: bool = True
    bases: tuple[str, ...] = ()
    vectors: tuple[str, ...] = ()
    settled: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    below: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    doses: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the model said.

    Args:
        text: without special tokens and space around it; empty where it said nothing.
        cut: whether it ended at the length limit.
        tokens: how many new ones.
    """

    text: str
    cut: bool
    tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Steered:
    """A loaded model that answers, steered.

    Args:
        chat: the model.
        base: what stands below.
        vector: what goes on top; None for nothing.
        layer: the steered block; None where the vector has none.
    """

    chat: ChatModel
    base: Intervention
    vector: Intervention | None
    layer: int | None

    def prompt(self, messages: Sequence[Message]) -> Prompt:
        """The conversation as the base rewrites it.

        Raises:
            UserError: it holds what is no text.
        """
        from caa_bench.models.prompts import chat_prompt

        refuse_what_is_no_text(messages[-1]["content"])
        return chat_prompt(self.chat.tokenizer, self.base.rewrite(messages))

    def answers(
        self,
        messages: Sequence[Message],
        *,
        multipliers: Sequence[float],
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[Answer]:
        """What the model says next at each multiplier, all in one batch.

        Steered are the last token of the prompt and every new one; what was said before stays as it was.

        Args:
            temperature: 0 is greedy.
            seed: of what is drawn above that.

        Raises:
            UserError: the conversation is longer than the model takes, or holds what is no text.
        """
        said = continuations(
            self.chat,
            self.prompt(messages),
            [self._edits(multiplier) for multiplier in multipliers],
            base=self.base,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seeds=[[seed] * len(multipliers)],
        )
        return [Answer(text=self.chat.text_of(one.ids), cut=one.ended == "length", tokens=len(one.ids)) for one in said]

    @property
    def room(self) -> int | None:
        """The most tokens of a prompt and its answer; None where the model does not say."""
        return room_of(self.chat)

    def _edits(self, multiplier: float) -> list[Edit]:
        """None at 0, so that the unsteered answer is the unchanged model's, bit for bit."""
        if self.vector is None or not multiplier:
            return []
        return self.vector.edits(Condition(multiplier=multiplier, layer=self.layer)) or []


class Session:
    """A loaded model with the behavior's vector and one base, fitted or taken from the kept artifacts.

    Args:
        settings: what is steered.
        base: as in a recipe's `bases`.

    Attributes:
        chat / behavior: the model, and what it is steered on.
        base / vector: what stands below, and what goes on top.
        layer: the steered block.
        bases / vectors: all that are ready, by label, these two included.

    Raises:
        UserError: whatever `compare` would refuse, or a fit that failed.
    """

    chat: ChatModel
    behavior: Behavior
    base: Intervention
    vector: Intervention
    layer: int | None
    bases: dict[str, Intervention]
    vectors: dict[str, Intervention]

    def __init__(self, settings: Settings, *, base: str = "none") -> None:
        if settings.max_new_tokens < 1:
            raise UserError(f"--max-new-tokens: {settings.max_new_tokens} is too few; give 1 or more")
        self.settings = settings
        self._use(base, chat=None)

    def use_base(self, base: str) -> None:
        """Put the vector on another base; the model stays loaded, and an unknown base changes nothing.

        Raises:
            UserError: there is no such base, or its fit failed.
        """
        self._use(base, chat=self.chat)

    def answers(self, messages: Sequence[Message], *, multipliers: Sequence[float]) -> list[Answer]:
        """What the model says next at each multiplier, greedily (`Steered.answers`).

        Raises:
            UserError: the conversation is longer than the model takes, or holds what is no text.
        """
        return self.steered.answers(messages, multipliers=multipliers, max_new_tokens=self.settings.max_new_tokens)

    @property
    def steered(self) -> Steered:
        """The model with what stands below and on top now."""
        return Steered(chat=self.chat, base=self.base, vector=self.vector, layer=self.layer)

    def _use(self, base: str, *, chat: ChatModel | None) -> None:
        recipe = load_recipe(self.settings.recipe, self._overrides(base))
        benchmark = Benchmark.from_recipe(recipe, chat=chat, progress=self.settings.progress).fit()
        if benchmark.fits.unfit:
            failed = [f"{label}: could not be fitted ({why})" for label, why in benchmark.fits.unfit.items()]
            raise UserError(*(f"{line}; choose another base or model" for line in failed))
        given = self.settings.settled
        vectors = settled(benchmark.vectors, given) if given else benchmark.settled_vectors()
        bases = settled_bases(benchmark.bases, self.settings.below, vectors=vectors)
        self.vectors, self.bases = ({one.label: one for one in first_fits(own)} for own in (vectors, bases))
        self.vector, self.base = next(iter(self.vectors.values())), self.bases[base]
        self.behavior, self.chat = benchmark.behavior, benchmark.chat
        self.layer = self.layer_of(self.vector)

    @property
    def doses(self) -> tuple[float, ...]:
        """The vector's own: those of its run, else what was tuned, or 1, both ways."""
        return self.settings.doses or (-self.vector.dose_unit, self.vector.dose_unit)

    @property
    def is_default_layer(self) -> bool:
        """Whether the layer is a mere fraction of the depth: nobody named it, swept the model or tuned on it."""
        return getattr(self.vector.config, "layers", None) == "default" and not self.chat.loading.swept

    def layer_of(self, vector: Intervention) -> int | None:
        """The first of its layers in the recipe; None for one that has none."""
        return vector.conditions(self.chat.loaded_layers())[0].layer

    def _overrides(self, base: str) -> list[str]:
        own = self.settings
        bases, vectors = dict.fromkeys(["none", *own.bases, base]), own.vectors or ("caa",)
        section = vectors[0] if vectors[0] in registry() else f"arms.{vectors[0]}"
        layers = None if own.layer is None else [own.layer]
        named = {"behavior": own.behavior, "model": own.model, f"{section}.layers": layers}
        said = [f"{key}={json.dumps(value)}" for key, value in named.items() if value is not None]
        names = [f"bases={json.dumps([*bases])}", f"vectors={json.dumps([*vectors])}"]
        return [*own.changes, *said, *names, "report_to=[]"]
