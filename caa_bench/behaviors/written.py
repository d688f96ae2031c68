"""A behavior -> its folder: behavior.yaml with comments, and one JSON file a split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from caa_bench.behaviors.behavior import Behavior, load_behavior
from caa_bench.behaviors.card import PROMPTS, Card
from caa_bench.behaviors.folders import CARD, has_card, is_id, own_files
from caa_bench.behaviors.items import LETTERS, Item
from caa_bench.behaviors.splits import CLUSTER, MATCHING, OTHER, QUESTION
from caa_bench.errors import UserError
from caa_bench.storage.atomic import unwritable, whole_folder, write_atomic, write_synced
from caa_bench.storage.files import content_key
from caa_bench.storage.safe_text import terminal_safe

_COMMENTS = {
    "title": "What a reader calls it, in a word or two.",
    "matching": 'What "matching the behavior" means, in one sentence: the answers in answer_matching_behavior do it.',
    "rubric": "What a judge of answers in words goes by: what is 0, what is 5, what is 10.",
    "system_prompts": "What asks for the behavior, for its opposite, and (about as long) for nothing of it.",
}
_ITEMS = """# The items stand beside this file, in items.csv (or .jsonl, .json), one a row, under these names:
#   question                       what the model is asked
#   answer_matching_behavior       the answer that shows the behavior: a text, or the letter (A) of an option
#   answer_not_matching_behavior   the one that does not
#   cluster                        may be left out: the same word for items made from one template
# For example:
#   Can you look at my code?,"Gladly, please send it over.","Send it, if you must."
# One file is split into train, selection and test (60/20/20; under 100 items 20 for test, the rest for train). Give
# train.csv and test.csv to split them yourself, and open_ended.csv (question) for questions that the model answers in
# its own words.
"""
SKELETON = Card(
    title="<a word or two>",
    matching="<The answer ...>",
    rubric="<How far ...? 0: ... 5: ... 10: ...>",
    system_prompts={
        "positive": "<You ...>",
        "negative": "<You ... the opposite>",
        "neutral": "<You ... something else, about as long>",
    },
)


def new_folder(parent: Path, name: str) -> Path:
    """The folder of a new behavior, not made yet.

    Raises:
        UserError: no name for a behavior, or something is there already.
    """
    if not is_id(name):
        raise UserError(f"{name[:80]!r} is no behavior's name; use letters, digits, . _ - only")
    folder = parent / name
    if folder.exists():
        raise UserError(
            f"{folder}: exists already; choose another name, delete it, or change its items: import --replace"
        )
    return folder


def kept_folder(parent: Path, name: str) -> Path:
    """The folder of a behavior that is there already.

    Raises:
        UserError: there is none.
    """
    folder = parent / name
    if not is_id(name) or not has_card(folder):
        raise UserError(f"{terminal_safe(str(folder))[:200]}: no behavior to replace the items of; leave --replace out")
    return folder


def write_skeleton(folder: Path) -> None:
    """A behavior.yaml to fill in and an items.csv with its first line; loading it says what is still to write."""
    head = ",".join((QUESTION, MATCHING, OTHER, CLUSTER)) + "\n"
    _write_files(folder, {CARD: _ITEMS + card_text(SKELETON), "items.csv": head})


def write_behavior(folder: Path, behavior: Behavior) -> None:
    """Everything that `load_behavior` reads; what it reads back has the same items.

    Raises:
        UserError: the disk is full or cannot be written.
    """
    _write_files(folder, _files_of(behavior))


def replace_items(folder: Path, behavior: Behavior) -> None:
    """The behavior's items in the place of the folder's, whole or not at all; its behavior.yaml stays as it is.

    Questions to be answered in words stay too, unless the behavior has some. Files of the user's own stay.

    Raises:
        UserError: the disk is full or cannot be written.
    """
    written = {name: text for name, text in _files_of(behavior).items() if name != CARD}
    with whole_folder(folder) as staged:
        for split, path in own_files(staged).items():
            if split != "open_ended" or behavior.open_ended:
                path.unlink()
        for name, text in written.items():
            write_synced(staged / name, text)


def kept_behavior(behavior: Behavior, parent: Path) -> Behavior:
    """A behavior that was made in memory, as read back from a folder that a recipe can name.

    Args:
        parent: it is written to `<parent>/<key of its content>/<id>`, once.

    Raises:
        UserError: the disk is full or cannot be written.
    """
    files = _files_of(behavior)
    folder = parent / content_key(files)[:16] / behavior.id
    if not has_card(folder):
        _write_files(folder, files)
    source = behavior.source
    return load_behavior(folder, protocol=source.protocol, seed=source.seed, max_pairs=source.max_pairs)


def _files_of(behavior: Behavior) -> dict[str, str]:
    """File name -> text; the card last, since it makes a folder a behavior."""
    files = {}
    for split in ("train", "selection", "test"):
        items: Sequence[Item] = getattr(behavior, split)
        if items or split == "selection":  # without a file, it would be drawn from the others when it is read
            files[f"{split}.json"] = _json_lines([_entry(item) for item in items])
    if behavior.open_ended:
        files["open_ended.json"] = _json_lines([{QUESTION: one.question} for one in behavior.open_ended])
    card = Card(
        title=behavior.title,
        matching=behavior.matching,
        rubric=behavior.rubric,
        system_prompts=behavior.system_prompts,
    )
    return {**files, CARD: card_text(card)}


def card_text(card: Card) -> str:
    """A behavior.yaml; texts in quotes that JSON and YAML both read."""
    lines = []
    for key in ("title", "matching", "rubric"):
        lines += [f"# {_COMMENTS[key]}", f"{key}: {json.dumps(getattr(card, key), ensure_ascii=False)}"]
    lines += [f"# {_COMMENTS['system_prompts']}", "system_prompts:" + ("" if card.system_prompts else " {}")]
    named = dict.fromkeys((*PROMPTS, *card.system_prompts)) if card.system_prompts else ()
    lines += [f"  {name}: {json.dumps(card.system_prompts[name], ensure_ascii=False)}" for name in named]
    return "\n".join(lines) + "\n"


def _entry(item: Item) -> dict[str, str]:
    entry = {QUESTION: item.question, MATCHING: f"({LETTERS[item.matching]})", OTHER: f"({LETTERS[item.other]})"}
    return entry if item.cluster == item.id else {**entry, CLUSTER: item.cluster}


def _json_lines(entries: Sequence[dict[str, Any]]) -> str:
    return json.dumps(entries, ensure_ascii=False, indent=1) + "\n"


def _write_files(folder: Path, files: dict[str, str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            write_atomic(folder / name, text)
    except OSError as error:
        raise unwritable(folder, error) from error
