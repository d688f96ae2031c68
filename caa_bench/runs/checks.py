"""Everything that can be wrong with a run, found before any weights are loaded: one line a mistake."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from caa_bench.behaviors.behavior import Behavior, variants
from caa_bench.errors import UserError, all_made
from caa_bench.interventions import Intervention
from caa_bench.interventions.arms import Arm, in_arm
from caa_bench.models.hub import unreachable
from caa_bench.models.loaded import LoadedModel
from caa_bench.models.model import ChatModel
from caa_bench.runs.grid import unknown_bases
from caa_bench.runs.prompt_checks import asked_by, not_text, too_long

if TYPE_CHECKING:
    from collections.abc import Iterator

    from caa_bench.evaluators import Evaluator
    from caa_bench.recipe import BenchmarkArguments
    from caa_bench.runs.prompt_checks import Asked


@dataclass(frozen=True, kw_only=True)
class RunChecks:
    """The checks of one run, from the cheapest to those that read data.

    Args:
        interventions: every one of the run, each fit once; `vectors` and `bases` are made of them.
    """

    args: BenchmarkArguments
    chat: ChatModel
    behavior: Behavior
    interventions: Sequence[Intervention]
    vectors: Sequence[Intervention]
    bases: Sequence[Intervention]
    evaluators: Sequence[Evaluator]
    arms: Mapping[str, Arm]

    def refuse(self) -> None:
        """Nothing where all is well; a later group of checks is not asked where an earlier one found something.

        Raises:
            UserError: one line a mistake.
        """
        for found in (self._of_settings, self._of_model, self._of_evaluators, self._of_data, self._of_prompts):
            if mistakes := found():
                raise UserError(*mistakes)

    def ready(self) -> ChatModel:
        """The model with its weights, loaded once it is sure that every prompt can be made.

        Raises:
            UserError: a prompt cannot be made of a base's conversation, or holds a control token that is text.
        """
        asked = variants(self.behavior.test[0])[0]
        for base in self.bases:
            self.chat.choice_prompt(base.rewrite([{"role": "user", "content": asked.question}]), asked.letters)
        if mistakes := not_text(self.chat, self._prompts()):
            raise UserError(*mistakes)
        _ = self.chat.model
        return self.chat

    def _of_settings(self) -> list[str]:
        mistakes = [*self.args.mistakes(), *_ranks(self.chat)]
        mistakes += [
            f"vectors: {item.label} changes the conversation, which nothing on top of a base can; name it in bases"
            for item in self.vectors
            if type(item).rewrite is not Intervention.rewrite
        ]
        mistakes += unknown_bases(self.evaluators, self.arms)
        if not isinstance(self.chat, LoadedModel):
            mistakes += unreachable(self.chat.source, revision=self.chat.loading.revision)
        return mistakes

    def _of_model(self) -> list[str]:
        if mistakes := self.chat.check():
            return mistakes
        layers = self.chat.layers
        if layers is None:
            return []
        found = []
        for item in self.interventions:
            lines = [*item.check(layers), *item.check_model(self.chat)]
            if self.chat.loading.parallel != "none" and not lines:
                lines = item.check_slices()
            found += [in_arm(line, item.arm, item.name) for line in lines] if item.arm else lines
        return found

    def _of_evaluators(self) -> list[str]:
        mistakes = []
        for one in self.evaluators:
            mistakes += one.check(self.behavior, self.chat, split=self.args.split)
            mistakes += [line for base in self.bases for line in one.check_base(base)]
        if self.args.tune in ("layers", "all") and self.args.protocol == "caa" and not self.behavior.selection:
            mistakes.append(f"tune: {self.behavior.id} has no selection split to choose on; add one, or set tune=off")
        return mistakes

    def _of_data(self) -> list[str]:
        """Reads the items, and the other behaviors that a vector is transferred from or normalized over."""
        pairs = self.behavior.pairs()
        learned = [partial(item.learned_from, pairs) for item in self.interventions if item.trains]
        all_made(*learned, *(partial(one.items, self.behavior, split=self.args.split) for one in self.evaluators))
        return []

    def _of_prompts(self) -> list[str]:
        return too_long(self.chat, self._prompts())

    def _prompts(self) -> Iterator[Asked]:
        """Every prompt of the run that is one turn."""
        fits = any(item.trains for item in self.interventions)
        return asked_by(self.behavior, args=self.args, bases=self.bases, evaluators=self.evaluators, fits=fits)


def _ranks(chat: ChatModel) -> list[str]:
    """What keeps the ranks of torchrun from holding a model together, which is all they do.

    Otherwise they would fight for one folder and train a LoRA together on larger batches.
    """
    if chat.loading.parallel != "none":
        from caa_bench.models import tensor_parallel

        return tensor_parallel.mistakes(chat)
    world = os.environ.get("WORLD_SIZE", "1")
    if world == "1":
        return []
    return [
        f"WORLD_SIZE is {world}: a run is one process; start it without torchrun, and with --replicas {world} where "
        "several GPUs should share its batches, or with loading.parallel=tensor where the model is too large for one"
    ]
