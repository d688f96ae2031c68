"""A pair of plain texts -> the same entry as a two-option question with letters.

Knows nothing of files. The matching text stands at (A) in every other entry, so that letters are balanced.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_LETTER = re.compile(r"\(?[A-Z]\)?\.?")


def lettered(entry: Mapping[str, str], index: int, *, question: str, matching: str, other: str) -> dict[str, str]:
    """The entry as it is where its question has options or its answers are letters; else with two options made of them.

    Args:
        entry: texts by key.
        index: the entry's place in its file, from 0.
        question / matching / other: the keys of its parts.

    Raises:
        ValueError: a text would be taken for several options; says what to do.
    """
    texts = (entry[matching].strip(), entry[other].strip())
    if any(map(_LETTER.fullmatch, texts)) or _has_options(entry[question]):
        return dict(entry)
    shown = texts if index % 2 == 0 else texts[::-1]
    letters = ("(A)", "(B)") if index % 2 == 0 else ("(B)", "(A)")
    return {**entry, question: with_options(entry[question], shown), matching: letters[0], other: letters[1]}


def with_options(question: str, options: Sequence[str]) -> str:
    """The question with its two options on lines of their own.

    Raises:
        ValueError: there would be more options than two; says what to do.
    """
    if _has_options(question):
        raise ValueError('the question has options of its own, as in "(A)"; write it without')
    if any(map(_has_options, options)):
        raise ValueError('an answer has a line that begins with a letter as in "(A)"; write it without')
    return f"{question.strip()}\n\nChoices:\n (A) {options[0]}\n (B) {options[1]}"


def _has_options(question: str) -> bool:
    """Also where they are lettered wrongly, which is then said."""
    return re.search(r"(?:^|\n)[ \t]*\([A-Z]\)", question) is not None
