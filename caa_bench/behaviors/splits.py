"""A split's file -> checked items, or one line a fault with its file and line.

A split is a list of {"question", "answer_matching_behavior": "(A)", "answer_not_matching_behavior": "(B)", "cluster"}
(`cluster` optional), an open-ended one of {"question", "cluster"}; capability items are named as in `CAPABILITY`. The
answers may also be texts: of the question's own options, or of a question without any, which is then given two. A JSON
file with CRLF line ends is read like any other, as JSON takes them for space; a carriage return INSIDE a text is a
fault, as it would reach the model as a token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caa_bench.behaviors.columns import CLUSTER as CLUSTER
from caa_bench.behaviors.columns import MATCHING as MATCHING
from caa_bench.behaviors.columns import OTHER as OTHER
from caa_bench.behaviors.columns import QUESTION as QUESTION
from caa_bench.behaviors.columns import misspelt, same_fault_of_all, short_text, spreadsheet_entries
from caa_bench.behaviors.entries import read_entries
from caa_bench.behaviors.free_text import lettered
from caa_bench.behaviors.items import LETTERS, Item, names_letters, parse_options, same_key, same_text
from caa_bench.behaviors.json_entries import Faults, JsonObject, Located

# The longest published question has 2,200 characters; far beyond that, something else was pasted in.
MAX_CHARACTERS = 20_000

# Control characters but tab and newline, and halves of characters, which no file could be written with.
_ODD = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class Keys:
    """How a file calls the parts of a multiple-choice item.

    Args:
        question / matching / other: the text, and the letters of the two answers.
        category: what an item is grouped by, as a part of its id; "" for files without.
        blank: whether an option may have no text.
    """

    question: str = QUESTION
    matching: str = MATCHING
    other: str = OTHER
    category: str = ""
    blank: bool = False

    @property
    def required(self) -> tuple[str, ...]:
        """Those that every item needs."""
        return tuple(filter(None, (self.question, self.matching, self.other, self.category)))


# Five of the published TruthfulQA items have an option without text; the paper asked them so.
CAPABILITY = Keys(question="prompt", matching="correct", other="incorrect", category="category", blank=True)


@dataclass(frozen=True, kw_only=True)
class OpenQuestion:
    """A question that the model answers in its own words.

    Args:
        id: unique, stable over runs (`open_ended/<4-digit index>`).
        question: the text.
        cluster: template or stem; its own id where the data has none.
    """

    id: str
    question: str
    cluster: str


def read_items(
    path: Path, *, behavior: str, split: str, faults: Faults, keys: Keys = Keys(), twins: bool = False
) -> list[Located[Item]]:
    """The sound items of a multiple-choice split; what is wrong with the others goes to `faults`.

    Args:
        twins: whether one item may stand there twice in other words' order, case or spaces, as in published data.

    Returns:
        Items with the id `<split>/<index>`, or `<split>/<category>/<index>` where the file has categories.
    """
    entries = read_entries(path, faults)
    return items_of(entries, path=path, behavior=behavior, split=split, faults=faults, keys=keys, twins=twins)


def items_of(
    entries: Sequence[Located[Any]],
    *,
    path: Path,
    behavior: str,
    split: str,
    faults: Faults,
    keys: Keys = Keys(),
    twins: bool = False,
) -> list[Located[Item]]:
    """The sound items among entries from wherever; arguments as in `read_items`, `path` for messages."""
    items: list[Located[Item]] = []
    known = entries if keys.category else spreadsheet_entries(entries, path=path, faults=faults)
    if known is None or same_fault_of_all(known, keys.required, path=path, faults=faults):
        return items
    for index, entry in enumerate(known):
        problems = _field_problems(entry.value, keys.required)
        if not problems:
            category = f"{entry.value[keys.category].strip()}/" if keys.category else ""
            name = f"{split}/{category}{index:04d}"
            try:
                given = entry.value if keys.category else _lettered(entry.value, index, keys)
                items.append(Located(line=entry.line, value=_item(given, name, behavior, keys)))
            except ValueError as error:
                problems = [str(error)]
        for problem in problems:
            faults.add(path, entry.line, problem)
    _refuse_duplicates(
        path, [(entry, entry.value.question.strip(), same_key(entry.value)) for entry in items], faults, twins=twins
    )
    return items


def read_open_questions(path: Path, *, faults: Faults) -> list[Located[OpenQuestion]]:
    """The sound questions of an open-ended split; what is wrong with the others goes to `faults`."""
    return open_questions_of(read_entries(path, faults), path=path, faults=faults)


def open_questions_of(entries: Sequence[Located[Any]], *, path: Path, faults: Faults) -> list[Located[OpenQuestion]]:
    """The sound questions among entries from wherever; `path` is for messages."""
    questions: list[Located[OpenQuestion]] = []
    if same_fault_of_all(entries, (QUESTION,), path=path, faults=faults):
        return questions
    for index, entry in enumerate(entries):
        name = f"open_ended/{index:04d}"
        problems = _field_problems(entry.value, (QUESTION,))
        for problem in problems:
            faults.add(path, entry.line, problem)
        if not problems:
            text, cluster = entry.value[QUESTION], entry.value.get(CLUSTER, name)
            question = OpenQuestion(id=name, question=text.strip(), cluster=cluster)
            questions.append(Located(line=entry.line, value=question))
    known = [(entry, entry.value.question, same_text(entry.value.question)) for entry in questions]
    _refuse_duplicates(path, known, faults, twins=False)
    return questions


def _lettered(entry: Mapping[str, str], index: int, keys: Keys) -> dict[str, str]:
    return lettered(entry, index, question=keys.question, matching=keys.matching, other=keys.other)


def _item(entry: Mapping[str, str], name: str, behavior: str, keys: Keys) -> Item:
    """Raises ValueError, saying what is wrong and what to do."""
    parsed = parse_options(entry[keys.question])
    for index, option in enumerate(parsed.options):
        if not option and not keys.blank:
            raise ValueError(f"option ({LETTERS[index]}) has no text; write one")
        if (first := parsed.options.index(option)) != index:
            raise ValueError(f"options ({LETTERS[first]}) and ({LETTERS[index]}) are the same text; change one")
    matching, other = (_place(entry, key, parsed.options) for key in (keys.matching, keys.other))
    if matching == other:
        raise ValueError(f'both answers are "({LETTERS[matching]})"; name two different options')
    return Item(
        id=name,
        behavior=behavior,
        question=entry[keys.question],
        head=parsed.head,
        options=parsed.options,
        separators=parsed.separators,
        matching=matching,
        other=other,
        cluster=entry.get(CLUSTER, name),
        swappable=not names_letters(parsed.options),
    )


def _place(entry: Mapping[str, str], key: str, options: Sequence[str]) -> int:
    letters = LETTERS[: len(options)]
    answer = entry[key].strip()
    said = [index for index, option in enumerate(options) if same_text(option) == same_text(answer)]
    if len(said) == 1:
        return said[0]
    if not re.fullmatch(rf"\([{letters}]\)", answer):
        valid = ", ".join(f'"({letter})"' for letter in letters)
        raise ValueError(f'"{key}" is "{short_text(answer)}", which is none of its options; write one of {valid}')
    return letters.index(answer[1])


def _refuse_duplicates(
    path: Path, read: Sequence[tuple[Located[Any], str, object]], faults: Faults, *, twins: bool
) -> None:
    """Each entry with its text and with what makes it the same up to case, spaces and order."""
    first: dict[object, tuple[Located[Any], str]] = {}
    for entry, text, key in read:
        earlier, known = first.setdefault(key, (entry, text))
        if earlier is entry or (twins and known != text):
            continue
        same = "question" if known == text else "item, up to case, spaces and the order of options,"
        faults.add(path, entry.line, f"the same {same} as at line {earlier.line}; delete one of the two")


def _field_problems(entry: Any, required: Sequence[str]) -> list[str]:
    """What is wrong with one entry before its question is taken apart."""
    if not isinstance(entry, JsonObject):
        return [f'{_json_kind(entry)} in place of an item; write {{"{required[0]}": ...}}']
    known = (*required, CLUSTER)
    problems = [f'the key "{key}" stands twice; delete one' for key in entry.repeated]
    for key in required:
        if key not in entry:
            problems.append(f'"{key}" is missing{misspelt(key, entry, known)}')
    if CLUSTER not in entry and (hint := misspelt(CLUSTER, entry, known)):
        problems.append(f'unknown key{hint}, or name it "{CLUSTER}"')
    for key in known:
        if key in entry and (problem := _text_problem(entry[key])):
            problems.append(f'"{key}" {problem}')
    return problems


def _text_problem(value: Any) -> str:
    if not isinstance(value, str):
        return f"is {_json_kind(value)}; write a text in quotes"
    if not value.strip():
        return "is empty; write its text"
    if len(value) > MAX_CHARACTERS:
        return f"has {len(value):,} characters; shorten it to at most {MAX_CHARACTERS:,}"
    if odd := _ODD.search(value):
        return f"contains the character U+{ord(odd[0]):04X} (place {odd.start() + 1}); remove it"
    return ""


def _json_kind(value: Any) -> str:
    names = {dict: "an object", JsonObject: "an object", list: "a list", str: "a text", bool: "a truth value"}
    return "null" if value is None else names.get(type(value), "a number")
