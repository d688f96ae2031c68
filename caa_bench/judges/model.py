"""`model`: a local chat model as the judge. Its score is the expected digit, not the one it would say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from caa_bench.judges.base import Asked, Judge, Judgement, Judging
from caa_bench.judges.rubric import NOTHING, rating_request

if TYPE_CHECKING:
    from caa_bench.behaviors.behavior import Behavior
    from caa_bench.models.model import ChatModel

DIGITS = tuple("0123456789")
REPLY = "Reply with one digit from (0), not at all, to (9), as strongly as can be, in parentheses."
LEAST_MASS = 0.5
"""A model that puts less than this on the ten digits was not about to give a score: missing."""
CHUNK = 64


class ModelJudge(Judge):
    """Reads the probabilities of the ten digits where the score would stand, and takes their mean."""

    name = "model"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Section `judges.model`.

        Args:
            source: a model config's name, a folder or a hub name; "" is the measured model itself, unsteered.
        """

        source: str = ""

    def check(self, behavior: Behavior) -> list[str]:
        """The model must be one that there is."""
        return self._chat().check() if self.config.source else []

    def check_slices(self) -> list[str]:
        """The measured model answers on all ranks at once, and judging is the first one's."""
        if self.config.source:
            return []
        return ["judges.model.source: a model in slices (loading.parallel) cannot judge itself; name another model"]

    def settings(self, behavior: Behavior) -> dict[str, Any]:
        """With the rubric, which is most of what it is asked."""
        return super().settings(behavior) | {"request": rating_request(behavior, NOTHING, reply=REPLY)}

    def judge(self, asked: Sequence[Asked], *, behavior: Behavior, chat: ChatModel) -> Judging:
        """Score the answers in chunks, each yielded as soon as it is done."""
        from caa_bench.engine.score import score
        from caa_bench.models.prompts import choice_prompt

        judge = self._chat() if self.config.source else chat
        for start in range(0, len(asked), CHUNK):
            requests = [rating_request(behavior, one, reply=REPLY) for one in asked[start : start + CHUNK]]
            prompts = [choice_prompt(judge.tokenizer, [{"role": "user", "content": text}], DIGITS) for text in requests]
            scores = score(judge.model, prompts, [[]])
            log_probs = scores.logits[:, 0] - scores.log_z[:, :1]  # [N, 10]
            for place, row in enumerate(log_probs.double().exp().tolist()):
                yield start + place, expected(row)

    def _chat(self) -> ChatModel:
        from caa_bench.models.model import ChatModel

        return ChatModel.find(self.config.source)


def expected(probabilities: Sequence[float]) -> Judgement:
    """The mean digit as 0-1, over the digits' own mass. [10]"""
    mass = sum(probabilities)
    if not mass >= LEAST_MASS:  # also where it is not a number
        return Judgement(score=None, reply=f"{mass:.3f} of the probability is on digits")
    return Judgement(score=sum(digit * p for digit, p in enumerate(probabilities)) / mass / 9, reply=f"{mass:.3f}")
