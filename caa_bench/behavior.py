"""A behavior folder -> train pairs, selection, A/B test, open-ended test, prompts, rubric."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Item:
    """One multiple-choice item, parsed so that its options can be shown in another order.

    Args:
        id: unique in its split, stable over runs (`<split>/<4-digit index>`).
        behavior: the behavior's id.
        question: the full text as published, options included.
        head: the text before the first option, separators included.
        options: the option texts, without letters. [K], 2 to 8
        separators: the text around each option (letter markers, newlines), so that `text()` re-assembles `question`.
        matching: index of the option that matches the behavior.
        other: index of the option named as not matching (with more than two options, one of several).
        cluster: the item's template or stem; items of one cluster are not independent. Its own id where the data has none.
        swappable: False where an option names letters ("both of the above", "(A)"), so that orders cannot be changed.
    """

    id: str
    behavior: str
    question: str
    head: str
    options: tuple[str, ...]
    separators: tuple[str, ...]
    matching: int
    other: int
    cluster: str
    swappable: bool


@dataclass(frozen=True, kw_only=True)
class Variant:
    """An item as it is asked once: one order of its options.

    Args:
        item: the item's id.
        order: 0 is the given order; with two options 1 is swapped; with more, evenly spaced rotations, at most 4.
        question: the text asked.
        letters: the option letters shown ("A", "B", ...). [K]
        matching: index into `letters` of the matching option in THIS order.
        other: index into `letters` of the other option in THIS order.
    """

    item: str
    order: int
    question: str
    letters: tuple[str, ...]
    matching: int
    other: int


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A contrast pair: one question, the answer that matches the behavior and the one that does not.

    Args:
        id: item id and order.
        question: the question with its options.
        matching: `"(A)"`, the letter of the matching option.
        other: `"(B)"`.
        matching_text / other_text: the option texts, for a LoRA that is trained on text.
    """

    id: str
    question: str
    matching: str
    other: str
    matching_text: str
    other_text: str
