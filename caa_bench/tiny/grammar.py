"""The grammar of the embedded model's answers: render one, and say exactly which side a generated text is on.

An answer is one head of a side, then nothing or one tail of the same side. Needs no torch.
"""

from __future__ import annotations

import re
from functools import cache

from caa_bench.tiny.words import Side, behavior_words


def answers(behavior: str, side: Side, filler: str) -> list[str]:
    """Every answer of `side` about `filler`, without and with a tail."""
    words = behavior_words(behavior)
    heads = [head.format(x=filler) for head in words.heads[side]]
    return heads + [f"{head} {tail}" for head in heads for tail in words.tails[side]]


def answer_side(behavior: str, question: str, text: str) -> Side | None:
    """The side of a generated answer, or None where the grammar does not produce it.

    Exact: the whole text must be one answer of the grammar, and what stands in the filler's place must stand,
    word for word, in the question.

    Args:
        behavior: the behavior's id.
        question: the question that was asked.
        text: the generated answer, special tokens removed.
    """
    text = " ".join(text.split())
    for side, pattern in _patterns(behavior).items():
        found = pattern.fullmatch(text)
        if found and all(filler in question for filler in found.groups() if filler):
            return side
    return None


@cache
def _patterns(behavior: str) -> dict[Side, re.Pattern[str]]:
    return {"matching": _pattern(behavior, "matching"), "other": _pattern(behavior, "other")}


def _pattern(behavior: str, side: Side) -> re.Pattern[str]:
    words = behavior_words(behavior)
    heads = "|".join(re.escape(head).replace(re.escape("{x}"), "([^.?!]+)") for head in words.heads[side])
    tails = "|".join(re.escape(tail) for tail in words.tails[side])
    return re.compile(f"(?:{heads})(?: (?:{tails}))?")
