"""What a table calls its columns -> entries under the names that items are read by, or one line for the whole table.

People keep a question, two options and the letter of the right one in a spreadsheet; such rows become the same entries
as a question with its options in it. A fault of all entries alike is one of their names, and said once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from caa_bench.behaviors.free_text import with_options
from caa_bench.behaviors.items import same_text
from caa_bench.behaviors.json_entries import Faults, JsonObject, Located
from caa_bench.storage.safe_text import terminal_safe

QUESTION, CLUSTER = "question", "cluster"
MATCHING, OTHER = "answer_matching_behavior", "answer_not_matching_behavior"
FORMS = f"{QUESTION}, {MATCHING}, {OTHER}, or {QUESTION}, option_a, option_b, letter"
_SHOWN = 12
_LETTER = re.compile(r"(?:option )?\(?([ab])\)?[.:]?")
_SPREADSHEET: Mapping[str, frozenset[str]] = {
    QUESTION: frozenset({"question", "prompt"}),
    "option A": frozenset({"a", "option a", "answer a", "choice a"}),
    "option B": frozenset({"b", "option b", "answer b", "choice b"}),
    "letter": frozenset(
        {"letter", "answer", "answer letter", "matching answer letter", "answer matching behavior"}
        | {
            f"{which}{what}"
            for which in ("right", "correct", "matching")
            for what in ("", " letter", " answer", " option")
        }
    ),
}
"""Each part of a row, and what its column may be called; case, `_` and `-` do not matter."""
_THIRD = re.compile(r"(?:option |answer |choice )?[c-h]")


def spreadsheet_entries(
    entries: Sequence[Located[Any]], *, path: Path, faults: Faults
) -> Sequence[Located[Any]] | None:
    """The entries, those of two option columns and a letter turned into a question with its options.

    Returns:
        None where it cannot be known which column is which, which is then a fault.
    """
    names = column_names(entries)
    plain = {name: _plain_name(name) for name in names}
    found = {part: [name for name in names if plain[name] in known] for part, known in _SPREADSHEET.items()}
    if {MATCHING, OTHER} <= set(names) or not (found["option A"] and found["option B"]):
        return entries
    for part, there in found.items():
        if len(there) != 1:
            wrong = (
                f"{len(there)} columns for the {part} ({_quoted_names(there)})"
                if there
                else f"no column for the {part}"
            )
            _refuse_names(entries, path, faults, f"{wrong}; keep one, named for example {_example(part)}", names)
            return None
    if more := [name for name in names if _THIRD.fullmatch(plain[name])]:
        said = f"more than two option columns ({_quoted_names(more)}); write them into the question, (A) ... (B) ..."
        _refuse_names(entries, path, faults, said, names)
        return None
    chosen = {part: there[0] for part, there in found.items()}
    cluster = next((name for name in names if plain[name] == CLUSTER), CLUSTER)
    return [
        entry
        for given in entries
        if (entry := _row_entry(given, chosen, cluster=cluster, path=path, faults=faults)) is not None
    ]


def same_fault_of_all(entries: Sequence[Located[Any]], required: Sequence[str], *, path: Path, faults: Faults) -> bool:
    """Whether a name that items need is in no entry, or twice in every one; noted once and not for each of them."""
    objects = [entry.value for entry in entries if isinstance(entry.value, JsonObject)]
    names = column_names(entries)
    missing = [key for key in required if key not in names]
    twice = [key for key in names if objects and all(key in one.repeated for one in objects)]
    if not objects or len(objects) < len(entries) or not (missing or twice):
        return False
    hints = {key: misspelt(key, dict.fromkeys(names), (*required, CLUSTER)) for key in missing}
    for key, hint in hints.items():
        if hint:
            _refuse_names(entries, path, faults, f'"{key}" is missing{hint}', names)
    if unknown := [key for key, hint in hints.items() if not hint]:
        said = f"{', '.join(map(_name_in_quotes, unknown))} {'is' if len(unknown) == 1 else 'are'} missing"
        _refuse_names(entries, path, faults, said + (f"; write {FORMS}" if MATCHING in required else ""), names)
    for key in twice:
        _refuse_names(entries, path, faults, f'the key "{short_text(key)}" stands twice; delete one', names)
    return True


def column_names(entries: Sequence[Located[Any]]) -> list[str]:
    """Every name that some entry has, in their order."""
    return list(dict.fromkeys(name for one in entries if isinstance(one.value, JsonObject) for name in one.value))


def misspelt(key: str, entry: Mapping[str, Any], known: Sequence[str]) -> str:
    """A hint at the entry's name that is nearly `key`; "" without one."""
    others = {name.lower(): name for name in entry if name not in known}
    close = get_close_matches(key, others, n=1, cutoff=0.8)
    return f'; is "{short_text(others[close[0]])}" meant to be it? Rename it' if close else ""


def short_text(text: str) -> str:
    """Foreign text, short and without anything that a terminal would act on."""
    return terminal_safe(text if len(text) <= 40 else f"{text[:40]}...")


def _plain_name(name: str) -> str:
    return " ".join(re.sub(r"[\s_-]+", " ", name).split()).casefold()


def _example(part: str) -> str:
    return part.lower().replace(" ", "_")


def _quoted_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(_name_in_quotes, names[:_SHOWN])) + more


def _name_in_quotes(name: str) -> str:
    return f'"{short_text(name)}"'


def _refuse_names(entries: Sequence[Located[Any]], path: Path, faults: Faults, said: str, names: Sequence[str]) -> None:
    """One fault of a table's first line, or of the first of a list's entries; names what there is."""
    line = 1 if path.suffix.lower() == ".csv" else entries[0].line
    faults.add(path, line, f"{said} (the names there are: {_quoted_names(names)})")


def _row_entry(
    given: Located[Any], chosen: Mapping[str, str], *, cluster: str, path: Path, faults: Faults
) -> Located[Any] | None:
    """One row as an entry; None and a fault for each thing that is wrong with it."""
    if not isinstance(given.value, JsonObject):
        return given  # whatever stands there in place of an item is refused with the others
    problems = list(_row_problems(given.value, chosen))
    if not problems:
        texts = {part: str(given.value[name]).strip() for part, name in chosen.items()}
        options = (texts["option A"], texts["option B"])
        letters = _letters_named(texts["letter"], options)
        try:
            asked = with_options(texts[QUESTION], options)
        except ValueError as error:
            problems.append(str(error))
        if len(letters) != 1:
            name, said = short_text(chosen["letter"]), short_text(texts["letter"])
            problems.append(f'"{name}" is "{said}", which names neither option alone; write A or B')
    for problem in problems:
        faults.add(path, given.line, problem)
    if problems:
        return None
    matching = letters.pop()
    pairs = [(QUESTION, asked), (MATCHING, f"({matching})"), (OTHER, f"({'B' if matching == 'A' else 'A'})")]
    if cluster in given.value:
        pairs.append((CLUSTER, given.value[cluster]))
    return Located(line=given.line, value=JsonObject(pairs))


def _row_problems(row: JsonObject, chosen: Mapping[str, str]) -> Iterator[str]:
    for name in chosen.values():
        if name in row.repeated:
            yield f'the key "{short_text(name)}" stands twice; delete one'
        elif name not in row or not str(row[name]).strip():
            yield f'"{short_text(name)}" is empty; write its text'
        elif not isinstance(row[name], str):
            yield f'"{short_text(name)}" is no text; write one in quotes'


def _letters_named(said: str, options: Sequence[str]) -> set[str]:
    """The options that it names, by letter or by text."""
    named = {"AB"[index] for index, option in enumerate(options) if same_text(option) == same_text(said)}
    letter = _LETTER.fullmatch(said.casefold())
    return named | ({letter[1].upper()} if letter else set())
