"""Which prompts of a run cannot be asked, found before weights load: too long for the model, or not to be kept text.

A model with rotary positions answers a prompt beyond its context without a word, and one with learned positions fails
with its whole batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from caa_bench.behaviors.behavior import Behavior, OpenQuestion
from caa_bench.behaviors.items import Item
from caa_bench.errors import UserError
from caa_bench.interventions.base import Intervention
from caa_bench.runs.grid import bases_under

if TYPE_CHECKING:
    from caa_bench.evaluators import Evaluator
    from caa_bench.models.model import ChatModel
    from caa_bench.models.prompts import Message
    from caa_bench.recipe import BenchmarkArguments

_NAMED = 5
# What a template writes around a turn, in bytes at most; and an answer's letter with its parentheses, in tokens.
_AROUND, _LETTER = 200, 4


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One prompt of a run.

    Args:
        name: how a message names it.
        messages: the conversation.
        answer: most tokens of the answer.
    """

    name: str
    messages: Sequence[Message]
    answer: int = _LETTER


def asked_by(
    behavior: Behavior,
    *,
    args: BenchmarkArguments,
    bases: Sequence[Intervention],
    evaluators: Sequence[Evaluator],
    fits: bool,
) -> Iterator[Asked]:
    """Every training pair and, under every base, every item that is asked as one turn.

    Args:
        fits: whether anything learns from the pairs.
    """
    for pair in behavior.pairs() if fits else ():
        yield Asked(name=pair.id, messages=_turn(pair.question))
    for one in evaluators:
        items = [
            item
            for item in one.items(behavior, split=args.split)[: args.limit]
            if isinstance(item, Item | OpenQuestion)  # the others are texts, which are read in parts
        ]
        for base in bases_under(one, bases):
            for item in items:
                for question in one.questions(item, protocol=args.protocol):
                    messages = base.rewrite(_turn(question))
                    yield Asked(name=_name(item.id, base), messages=messages, answer=max(_LETTER, one.decoded()))


def too_long(chat: ChatModel, asked: Iterable[Asked]) -> list[str]:
    """One line for each of the first few prompts that are longer than the model takes, with both numbers.

    Tokens are counted, by the tokenizer, only where the bytes leave a doubt: none has less than one.
    """
    from caa_bench.models.prompts import chat_prompt

    room, found = chat.context, {}
    if room is None:
        return []
    for one in asked:
        if _bytes(one) + _AROUND + one.answer <= room or one.name in found:
            continue
        size = len(chat_prompt(chat.tokenizer, one.messages).ids) + one.answer
        if size > room:
            found[one.name] = (
                f"{one.name}: its prompt has {size:,} tokens, the answer's {one.answer} included, and {chat.name} "
                f"takes {room:,}; shorten it or take it out"
            )
    return _first(list(found.values()))


def not_text(chat: ChatModel, asked: Iterable[Asked]) -> list[str]:
    """One line for each of the first few prompts with a control token in its words that cannot stay text."""
    from caa_bench.models.control_tokens import GUARD, guarded
    from caa_bench.models.prompts import chat_prompt

    found = {}
    for one in asked:
        try:
            if any(GUARD in guarded(chat.tokenizer, message["content"]) for message in one.messages):
                chat_prompt(chat.tokenizer, one.messages)
        except UserError as error:
            found[one.name] = f"{one.name}: {error.lines[0]}"
    return _first(list(found.values()))


def _turn(question: str) -> list[Message]:
    return [{"role": "user", "content": question}]


def _name(item: str, base: Intervention) -> str:
    return item if base.label == "none" else f"{item} under {base.label}"


def _bytes(one: Asked) -> int:
    return sum(len(message["content"].encode()) for message in one.messages)


def _first(lines: list[str]) -> list[str]:
    return lines[:_NAMED] + ([f"and {len(lines) - _NAMED:,} more like these"] if len(lines) > _NAMED else [])
