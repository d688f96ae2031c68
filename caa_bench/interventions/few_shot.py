"""Few-shot prompting (Brown et al. 2020, arXiv 2005.14165): answered questions in front of the one that is asked."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from caa_bench.errors import UserError
from caa_bench.interventions.base import Intervention

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from caa_bench.behaviors.behavior import Behavior, Pair, Pairs
    from caa_bench.models.prompts import Message


class FewShot(Intervention):
    """A few training questions, each with its matching (`positive`) or other (`negative`) answer, as earlier turns.

    p(answer | q_1 a_1 ... q_k a_k q): the shots stand behind a system prompt and in front of the question. They are
    drawn from the same pairs that vectors and finetunes learn from, each of another item, the letters in turn, so that
    the shots themselves prefer none. Any earlier turns of the conversation come behind them.

    Args:
        config: its recipe section.
        variant: `positive` or `negative`.
        **settings: the recipe section's keys.

    Attributes:
        shots: (question, answer); drawn by `build` from the behavior, or by `fit` from the pairs.
    """

    name = "few_shot"
    trains = True
    variants = ("positive", "negative")

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Recipe section `few_shot`.

        Args:
            shots: how many; each makes every prompt longer by its question.
            seed: of which items are drawn, and their order.
        """

        shots: int = 4
        seed: int = 0

        def __post_init__(self) -> None:
            if self.shots < 1:
                raise ValueError(f"shots: {self.shots} is too small; give 1 or more")

    def __init__(self, config: Any = None, *, variant: str = "positive", **settings: Any) -> None:
        super().__init__(config, variant=variant, **settings)
        self.shots: tuple[tuple[str, str], ...] = ()

    @classmethod
    def build(cls, config: Any, *, variant: str, behavior: Behavior, built: Mapping[str, Intervention]) -> Intervention:
        """With the shots drawn at once, so that prompts that get too long are found before any model is loaded."""
        made = super().build(config, variant=variant, behavior=behavior, built=built)
        if isinstance(made, FewShot):
            made.shots = made._drawn(behavior.pairs())
        return made

    def fit(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> None:
        """Draw the shots; the model is not used.

        Raises:
            UserError: more shots than items.
        """
        self.shots = self._drawn(pairs)

    def rewrite(self, messages: Sequence[Message]) -> list[Message]:
        """The shots as turns behind the system message, if there is one."""
        head = [message for message in messages if message["role"] == "system"]
        rest = [message for message in messages if message["role"] != "system"]
        turns: list[Message] = []
        for question, answer in self.shots:
            turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return [*head, *turns, *rest]

    def save_pretrained(self, folder: str | Path) -> None:
        """The shots as JSON, checksummed."""
        self.keep(folder, facts={"shots": [list(shot) for shot in self.shots]})

    def load(self, folder: str | Path) -> Self:
        """Read checked shots.

        Raises:
            UserError: damaged, or no shots.
        """
        from caa_bench.storage.artifact_folder import read_artifact

        shots = read_artifact(Path(folder), expect=None).meta.get("shots")
        if not isinstance(shots, list) or not all(_is_shot(shot) for shot in shots):
            raise UserError(f"{folder}: its shots are no list of questions and answers; delete it and fit again")
        self.shots = tuple((question, answer) for question, answer in shots)
        return self

    def _drawn(self, pairs: Pairs) -> tuple[tuple[str, str], ...]:
        by_item: dict[str, list[Pair]] = {}
        for pair in pairs:
            by_item.setdefault(pair.item, []).append(pair)
        if len(by_item) < self.config.shots:
            raise UserError(
                f"few_shot.shots: {self.config.shots} shots need as many training items, and there are {len(by_item)}; "
                "give fewer shots or more items"
            )
        chosen = random.Random(self.config.seed).sample(list(by_item), self.config.shots)  # noqa: S311 - a draw
        letters: list[str] = []
        shots = []
        for item in chosen:
            # the letter that was shown least so far, where the item is there in both orders
            pair = min(by_item[item], key=lambda pair: letters.count(self._answer(pair)))
            letters.append(self._answer(pair))
            shots.append((pair.question, self._answer(pair)))
        return tuple(shots)

    def _answer(self, pair: Pair) -> str:
        return pair.matching if self.variant == "positive" else pair.other


def _is_shot(shot: Any) -> bool:
    return isinstance(shot, list) and len(shot) == 2 and all(isinstance(text, str) for text in shot)
