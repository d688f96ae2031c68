"""`grammar`: the embedded model's answers have a grammar, so the side is exact; no score where none fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from caa_bench.judges.base import Asked, Judge, Judgement, Judging
from caa_bench.tiny.grammar import answer_side
from caa_bench.tiny.words import BEHAVIORS

if TYPE_CHECKING:
    from caa_bench.behaviors.behavior import Behavior
    from caa_bench.models.model import ChatModel

SCORES = {"matching": 1.0, "other": 0.0, None: None}


class GrammarJudge(Judge):
    """1 for an answer of the matching side, 0 for one of the other side, none for anything else."""

    name = "grammar"

    def check(self, behavior: Behavior) -> list[str]:
        """Only the embedded model's own behaviors have a grammar."""
        if behavior.id in BEHAVIORS:
            return []
        return [f"open_ended.judges: grammar does not know {behavior.id!r}; use classifier, model or api"]

    def judge(self, asked: Sequence[Asked], *, behavior: Behavior, chat: ChatModel) -> Judging:
        """All of them, at once."""
        for place, one in enumerate(asked):
            side = answer_side(behavior.id, one.question, one.text)
            yield place, Judgement(score=SCORES[side], reply=side or "")
