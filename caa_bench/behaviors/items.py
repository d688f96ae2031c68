"""One multiple-choice item: parse it, put it together again, show its options in another order.

Knows nothing of files, models or tokens. Shapes: K options of an item, 2 to 8.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from caa_bench.storage.files import content_key

LETTERS = "ABCDEFGH"
MAX_ORDERS = 4
Protocol = Literal["default", "caa"]

# An option begins on a line of its own; the space around its letter differs between the published files.
_MARKER = re.compile(r"(?:^|\n)[ \t]*\(([A-Z])\)[ \t]*")
# Options that stop being true or make no sense when the order changes: they name letters or a place in the list.
_NAMES_LETTERS = re.compile(
    r"^[A-Ha-h]\W?$"
    r"|(?<!\w)\([A-H]\)(?!\w)"
    r"|\b[A-H](?:, ?| ?& ?| and | or | nor | / ?)+[A-H]\b"
    r"|(?i:\b(?:option|choice|answer)s? )[A-H]\b"
    r"|(?i:\b(?:both|either|neither) [a-h](?:,? (?:and|or|nor) | ?& ?)[a-h]\b)"
    r"|(?i:\b(?:all|any|both|each|either|neither|none|one) (?:of )?(?:the )?(?:above|below)\b)"
    r"|(?i:\bthe (?:first|second|third|last|previous|former|latter) (?:option|choice|answer)\b)"
)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One multiple-choice item, parsed so that its options can be shown in another order.

    Args:
        id: unique in its split, stable over runs (`<split>/<4-digit index>`).
        behavior: the behavior's id.
        question: the full text as published, options included.
        head: the text before the first option's line.
        options: the option texts, without letters and without space around them. [K], 2 to 8
        separators: the text before each option (line break, letter, spaces) and behind the last, so that `text()`
            re-assembles `question`. [K + 1]
        matching: index of the option that matches the behavior.
        other: index of the option named as not matching (with more than two options, one of several).
        cluster: the item's template or stem; items of one cluster are not independent. Its own id where the data
            has none.
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

    def text(self, order: Sequence[int] = ()) -> str:
        """The question with option `order[i]` in place i; the given order where none is named."""
        shown = [self.options[index] for index in order or range(len(self.options))]
        return self.head + "".join(a + b for a, b in zip(self.separators, [*shown, ""], strict=True))


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
        item: the item's id.
        question: the question with its options.
        matching: `"(A)"`, the letter of the matching option.
        other: `"(B)"`.
        matching_text / other_text: the option texts, for a LoRA that is trained on text.
    """

    id: str
    item: str
    question: str
    matching: str
    other: str
    matching_text: str
    other_text: str


@dataclass(frozen=True, kw_only=True)
class Options:
    """A question taken apart: `head`, `options` and `separators` as in Item."""

    head: str
    options: tuple[str, ...]
    separators: tuple[str, ...]


def parse_options(question: str) -> Options:
    """Take a question apart into what stands before the options, the options, and what stands around them.

    Raises:
        ValueError: no options, a letter out of order, only one option or more than eight; says what to do.
    """
    marks = list(_MARKER.finditer(question))
    starts = [index for index, mark in enumerate(marks) if mark[1] == "A"]
    if not starts:
        raise ValueError("no options found; write each on a line of its own, as in '(A) Yes', from (A) on")
    marks = marks[starts[-1] :]
    letters = "".join(mark[1] for mark in marks)
    if len(letters) > len(LETTERS):
        raise ValueError(f"{len(letters)} options; at most {len(LETTERS)} can be asked, drop some")
    if letters != LETTERS[: len(letters)]:
        raise ValueError(
            f"its options are lettered {', '.join(letters)}; letter them {', '.join(LETTERS[: len(letters)])}"
        )
    if len(letters) < 2:
        raise ValueError("only one option, (A); give two or more")
    return _split(question, marks)


def _split(question: str, marks: Sequence[re.Match[str]]) -> Options:
    """Space around an option belongs to the separators: it stays in place when options move."""
    ends = [mark.start() for mark in marks[1:]] + [len(question)]
    cuts = [marks[0].start()]
    for mark, end in zip(marks, ends, strict=True):
        raw = question[mark.end() : end]
        start = mark.end() + len(raw) - len(raw.lstrip())
        cuts += [start, start + len(raw.strip())]
    cuts.append(len(question))
    pieces = [question[a:b] for a, b in pairwise(cuts)]
    return Options(head=question[: cuts[0]], options=tuple(pieces[1::2]), separators=tuple(pieces[0::2]))


def category_of(item: str) -> str:
    """What an item's id says before its index: `mmlu/astronomy` of `mmlu/astronomy/0041`; every split is one."""
    return item.rpartition("/")[0]


def longer_matching(item: Item) -> bool:
    """Whether the matching option has more characters than the other one."""
    return len(item.options[item.matching]) > len(item.options[item.other])


def names_letters(options: Sequence[str]) -> bool:
    """Whether an option refers to letters or to its place among the others, so that the order has to stay."""
    return any(_NAMES_LETTERS.search(option) for option in options)


def variants(item: Item, *, protocol: Protocol = "default") -> list[Variant]:
    """Every way `item` is asked (NUMBERS 2): both orders of two options, evenly spaced rotations of more, at most 4.

    Under the paper's protocol, and where an option names letters, the given order alone.
    """
    count = len(item.options)
    asked = min(count, MAX_ORDERS) if item.swappable and protocol == "default" else 1
    return [_rotated(item, order, shift=order * count // asked) for order in range(asked)]


def _rotated(item: Item, order: int, *, shift: int) -> Variant:
    """Option i is shown at place (i + shift) modulo K."""
    count = len(item.options)
    return Variant(
        item=item.id,
        order=order,
        question=item.text([(place - shift) % count for place in range(count)]).strip(),
        letters=tuple(LETTERS[:count]),
        matching=(item.matching + shift) % count,
        other=(item.other + shift) % count,
    )


def contrast_pairs(item: Item, *, protocol: Protocol = "default") -> list[Pair]:
    """The pair in the given order and with its two answers exchanged, so that no letter is favored.

    With more than two options the others stay where they are: each item gives the same number of pairs, and the
    letters of its two answers cancel in a mean difference. The given order alone as in `variants`.
    """
    given = list(range(len(item.options)))
    exchanged = list(given)
    exchanged[item.matching], exchanged[item.other] = item.other, item.matching
    pairs = [_pair(item, 0, given)]
    if item.swappable and protocol == "default":
        pairs.append(_pair(item, 1, exchanged))
    return pairs


def _pair(item: Item, number: int, order: Sequence[int]) -> Pair:
    return Pair(
        id=f"{item.id}/{number}",
        item=item.id,
        question=item.text(order).strip(),
        matching=f"({LETTERS[order.index(item.matching)]})",
        other=f"({LETTERS[order.index(item.other)]})",
        matching_text=item.options[item.matching],
        other_text=item.options[item.other],
    )


def same_text(text: str) -> str:
    """The text up to case, spaces and what has no shape: equal where a reader would call two texts the same."""
    if text.isascii():  # nothing to compose and nothing without a shape, and every item is asked several times
        return " ".join(text.split()).casefold()
    shown = "".join(one for one in unicodedata.normalize("NFKC", text) if unicodedata.category(one) != "Cf")
    return " ".join(shown.split()).casefold()


def same_key(item: Item) -> tuple[str, ...]:
    """Equal for items that ask the same, up to case, spaces and the order of their options."""
    return (same_text(item.head), *sorted(map(same_text, item.options)))


def text_key(item: Item) -> str:
    """12 hex digits of what is asked and which letter is right: by these, items of two sources are joined."""
    return content_key([item.question.strip(), LETTERS[item.matching]])[:12]


def question_key(question: str) -> str:
    """The same of a question without options."""
    return content_key(question.strip())[:12]


def set_key(keys: Iterable[str]) -> str:
    """16 hex digits of a set of such keys, in whatever order."""
    return content_key(sorted(set(keys)))[:16]
