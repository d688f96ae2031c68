"""What a model says in its own words under each condition: a thought where it may have one, then the answer.

A thought is for templates whose prompt opens `<think>`. It is ended within its budget and kept apart from the answer,
as is one that a model opens by itself; vectors steer it as they steer the answer. Shapes: N prompts, C conditions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from caa_bench.judges.replies import thought_in_front
from caa_bench.models.prompts import Prompt, after_thought
from caa_bench.models.turns import THOUGHT_ENDS
from caa_bench.storage.files import content_seed
from caa_bench.storage.row_kinds import THOUGHT

if TYPE_CHECKING:
    from caa_bench.engine.edit import Edit
    from caa_bench.engine.generate import Continuation
    from caa_bench.evaluators.base import Job
    from caa_bench.models.model import ChatModel


Say = Callable[..., "list[list[Continuation]]"]


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How rows speak.

    Args:
        max_new_tokens: length at which an answer is cut off.
        thought_tokens: length at which a thought is ended; 0 for none.
        temperature: 0 always takes the likeliest token.
        stop: texts that end an answer.
    """

    max_new_tokens: int
    thought_tokens: int = 0
    temperature: float = 0.0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Said:
    """What one row said.

    Args:
        thought: its tokens, without what ends it; None where there is none to be had.
        answer: what was said behind it.
    """

    thought: tuple[int, ...] | None
    answer: Continuation

    def texts(self, chat: ChatModel) -> dict[str, str]:
        """The answer as `text`, and the thought, where there is one, as THOUGHT.

        Some models open a thought without being asked. It is no answer either, and where the limit cuts it off there
        is none: judges get an empty text, which is missing.
        """
        if self.thought is not None:
            return {THOUGHT: chat.text_of(self.thought), "text": chat.text_of(self.answer.ids)}
        ids = self.answer.ids
        size = thought_in_front(chat.tokenizer.decode(list(ids)))
        if size == 0:
            return {"text": chat.text_of(ids)}
        lengths = (len(chat.tokenizer.decode(list(ids[:count]))) for count in range(len(ids) + 1))
        first = len(ids) if size is None else next(count for count, length in enumerate(lengths) if length >= size)
        return {THOUGHT: chat.text_of(ids[:first]), "text": chat.text_of(ids[first:])}


def spoken(
    job: Job,
    prompts: Sequence[Prompt],
    conditions: Sequence[Sequence[Edit]],
    *,
    manner: Manner,
    seeds: Sequence[Sequence[int]],
    say: Say | None = None,
) -> list[list[Said]]:
    """What each prompt is answered under each condition. [N][C]

    Args:
        say: what generates, called as `engine.generate.generate`, which is taken where it is not given.
        prompts: where there may be a thought, up to where it is open (`thinking_prompt`).
        seeds: of each row's generator, [N][C]; a thought draws from another one.
    """
    if not manner.thought_tokens:
        found = _words(job, prompts, conditions, manner=manner, seeds=seeds, say=say)
        return [[Said(thought=None, answer=one) for one in row] for row in found]
    thoughts = _thoughts(job, prompts, conditions, manner=manner, seeds=seeds, say=say)
    columns = []
    for c, edits in enumerate(conditions):  # each with its own thoughts in front, so that no two share a prompt
        behind = [after_thought(job.chat.tokenizer, one, row[c]) for one, row in zip(prompts, thoughts, strict=True)]
        words = _words(job, behind, [edits], manner=manner, seeds=[[row[c]] for row in seeds], say=say)
        columns.append([Said(thought=row[c], answer=one[0]) for row, one in zip(thoughts, words, strict=True)])
    return [list(row) for row in zip(*columns, strict=True)]


def cut(answer: Continuation, *, stop: Sequence[str], chat: ChatModel) -> Continuation:
    """The tokens in front of the first stop text, or the answer itself where none stands in it."""
    text = chat.tokenizer.decode(answer.ids) if stop else ""
    places = [text.index(end) for end in stop if end in text]
    if not places:
        return answer
    # A stop text may begin inside a token, which then goes with it.
    lengths = [len(chat.tokenizer.decode(answer.ids[:count])) for count in range(len(answer.ids) + 1)]
    kept = max(count for count, length in enumerate(lengths) if length <= min(places))
    return replace(answer, ids=answer.ids[:kept], ended="stop", log_probs=answer.log_probs[:kept])


def _thoughts(
    job: Job,
    prompts: Sequence[Prompt],
    conditions: Sequence[Sequence[Edit]],
    *,
    manner: Manner,
    seeds: Sequence[Sequence[int]],
    say: Say | None,
) -> list[list[tuple[int, ...]]]:
    ends = tuple(job.chat.tokenizer.encode(THOUGHT_ENDS, add_special_tokens=False))
    own = [[content_seed([seed, "thought"]) for seed in row] for row in seeds]
    thinking = Manner(max_new_tokens=manner.thought_tokens, temperature=manner.temperature, stop=(THOUGHT_ENDS,))
    more = ends if len(ends) == 1 else ()  # as one token it ends the thought when it comes
    found = _words(job, prompts, conditions, manner=thinking, seeds=own, say=say, more=more)
    return [[one.ids for one in row] for row in found]


def _words(
    job: Job,
    prompts: Sequence[Prompt],
    conditions: Sequence[Sequence[Edit]],
    *,
    manner: Manner,
    seeds: Sequence[Sequence[int]],
    say: Say | None,
    more: tuple[int, ...] = (),
) -> list[list[Continuation]]:
    """Continuations, cut at the stop texts. [N][C]"""
    from caa_bench.engine.generate import generate

    said = (say or generate)(
        job.chat.model,
        prompts,
        conditions,
        max_new_tokens=manner.max_new_tokens,
        stop_ids=[*job.chat.stop_ids, *more],
        temperature=manner.temperature,
        seeds=seeds,
        batch_size=job.prompts_per_pass,
        share_prefix=job.share_prefix,
    )
    return [[cut(one, stop=manner.stop, chat=job.chat) for one in row] for row in said]
