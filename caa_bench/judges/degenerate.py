"""Text that is no answer: repetition, or characters that are no words. Knows nothing of behaviors."""

from __future__ import annotations

import re
from collections import Counter

LEAST_DISTINCT = 1 / 3
"""Of the words of a text, below which it is repetition; 100 words of plain prose have about .7."""
MOST_LOOPED = 0.5
"""Of the words, in three-word sequences that stand there again, above which it is a loop."""
LEAST_LETTERS = 0.5
FEWEST_WORDS, FEWEST_FOR_LOOPS = 4, 12


def degenerate(text: str) -> str:
    """Why a text is no answer, in a few words; empty for an answer.

    `I I I I` is repetition, `No, no.` is not: fewer than four words repeat nothing.
    """
    shown = [character for character in text if not character.isspace()]
    if not shown:
        return "it is empty"
    if sum(character.isalpha() for character in shown) < LEAST_LETTERS * len(shown):
        return "most of its characters are no letters"
    words = re.findall(r"\w+", text.lower())
    if len(words) >= FEWEST_WORDS and len(set(words)) <= LEAST_DISTINCT * len(words) and _small_vocabulary(words):
        return "it repeats the same words"
    if len(words) >= FEWEST_FOR_LOOPS and _looped(words) > MOST_LOOPED:
        return "it repeats the same sequence"
    return ""


def _small_vocabulary(words: list[str]) -> bool:
    """A long sound text has a small share of different words too, but hundreds of them."""
    return len(set(words)) < 100


def _looped(words: list[str]) -> float:
    """The share of three-word sequences that stand there more than once, the first time not counted."""
    seen = Counter(zip(words, words[1:], words[2:], strict=False))
    total = sum(seen.values())
    return sum(count - 1 for count in seen.values()) / total
