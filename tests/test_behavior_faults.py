"""Bad data is refused before any model loads: a fault is one line that says where, what and what to do (PROMISES 7)."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from published import CARD, card_folder, entry, own_folder, write_split

from caa_bench.behaviors.behavior import load_behavior
from caa_bench.errors import UserError

GOOD = [entry(f"question {i}?", matching="(A)" if i % 2 else "(B)", other="(B)" if i % 2 else "(A)") for i in range(6)]


def faults(folder: Path) -> list[str]:
    with pytest.raises(UserError) as error:
        load_behavior(folder)
    return list(error.value.lines)


def options(text: str) -> dict[str, str]:
    return {**entry("x"), "question": f"How?{text}"}


# name: (the third entry of train.json, what the line says after file:line)
ENTRIES = {
    "missing field": ({"question": "q\n(A) a\n(B) b", "answer_matching_behavior": "(A)"},
                      '"answer_not_matching_behavior" is missing'),
    "misspelt field": ({**{k: v for k, v in entry("x").items() if k != "question"}, "Question": "q"},
                       'is "Question" meant to be it? Rename it'),
    "misspelt cluster": (entry("x", Cluster="t"), 'unknown key; is "Cluster" meant to be it?'),
    "not an object": ("a text", "a text in place of an item"),
    "null": (None, "null in place of an item"),
    "number for text": ({**entry("x"), "question": 7}, '"question" is a number; write a text'),
    "list for text": ({**entry("x"), "answer_matching_behavior": ["(A)"]}, '"answer_matching_behavior" is a list'),
    "cluster not text": (entry("x", cluster=3), '"cluster" is a number'),
    "empty question": ({**entry("x"), "question": " \n"}, '"question" is empty'),
    "empty cluster": (entry("x", cluster=""), '"cluster" is empty'),
    "huge line": ({**entry("x"), "question": "word " * 200_000 + "\n(A) a\n(B) b"},
                  "has 1,000,012 characters; shorten it"),
    "carriage return": ({**entry("x"), "question": "x?\r\n(A) a\r\n(B) b"}, "contains the character U+000D (place 3)"),
    "escape code": ({**entry("x"), "question": "\x1b[31mx?\n(A) a\n(B) b"}, "contains the character U+001B"),
    "half a character": ({**entry("x"), "question": "\ud800x?\n(A) a\n(B) b"}, "contains the character U+D800"),
    "no options": (options(""), "no options found; write each on a line of its own"),
    "options in one line": (options(" (A) yes (B) no"), "no options found"),
    "one option": (options("\n(A) yes"), "only one option"),
    "letters out of order": (options("\n(A) a\n(C) c"), "its options are lettered A, C; letter them A, B"),
    "a letter twice": (options("\n(A) a\n(B) b\n(B) c"), "its options are lettered A, B, B"),
    "nine options": (options("".join(f"\n({c}) {c}{c}" for c in "ABCDEFGHI")), "9 options; at most 8"),
    "option without text": (options("\n(A) yes\n(B) "), "option (B) has no text"),
    "options alike": (options("\n(A) yes\n(B) yes "), "options (A) and (B) are the same text"),
    "wrong letter": (entry("x", matching="(C)"), '"answer_matching_behavior" is "(C)", which is none of its options'),
    "letter without parentheses": (entry("x", other="B"),
                                   'is "B", which is none of its options; write one of "(A)", "(B)"'),
    "both answers alike": (entry("x", matching="(B)"), 'both answers are "(B)"'),
    "question twice": ({**GOOD[0]}, "the same question as at line 2"),
}  # fmt: skip


@pytest.mark.parametrize("name", ENTRIES)
def test_faulty_entry_is_one_line_with_file_and_line(tmp_path: Path, name: str) -> None:
    bad, says = ENTRIES[name]
    folder = own_folder(tmp_path, train=[GOOD[0], GOOD[1], bad, *GOOD[2:]])
    lines = faults(folder)
    assert len(lines) == 1
    assert lines[0].startswith(f"{folder / 'train.json'}:4: ")
    assert says in lines[0]
    assert len(lines[0]) < 400 and lines[0].isprintable()


# name: (bytes of train.json, line or None, what it says)
WHOLE = json.dumps(GOOD, indent=1).encode()
FILES = {
    "byte order mark": (b"\xef\xbb\xbf" + WHOLE, 1, "byte order mark"),
    "UTF-16": ("\ufeff".encode("utf-16-le") + WHOLE.decode().encode("utf-16-le"), 1, "byte order mark"),
    "not UTF-8": (WHOLE.replace(b"question 3", b"question \xe9"), 18, "not UTF-8 (byte 0xe9)"),
    "empty file": (b"", 1, "a list expected"),
    "empty split": (b"[\n]\n", 1, "the split is empty"),
    "an object for a list": (b'{"question": "x"}', 1, "a list expected"),
    "JSON lines": (b'\n{"question": "x"}\n{"question": "y"}', 2, "a list expected"),
    "cut off": (WHOLE[: len(WHOLE) // 2], 16, "not JSON here"),
    "trailing comma": (WHOLE[:-2] + b",\n]", 32, "not JSON here"),
    "missing comma": (b"[\n" + json.dumps(GOOD[0]).encode() + b"\n{}]", 3, "a comma or the list's end expected"),
    "text behind": (WHOLE + b"\n[]", 33, "text behind the list"),
    "single quotes": (b"[\n\n{'question': 'x'}]", 3, "not JSON here"),
    "line break in a text": (b'[\n{"question": "a\nb"}]', 2, "not JSON here"),
    "a key twice": (b'[\n{"question": "x\\n(A) a\\n(B) b", "question": "y\\n(A) a\\n(B) b",'
                    b'"answer_matching_behavior": "(A)", "answer_not_matching_behavior": "(B)"}]',
                    2, 'the key "question" stands twice'),
    "lists in lists": (b"[" * 100_000, 1, "JSON that no split needs"),
    "a number of 5,000 digits": (b"[\n" + json.dumps(GOOD[0]).encode() + b",\n" + b"1" * 5000 + b"]", 2,
                                 "behind this line stands JSON that no split needs"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_faulty_file_is_one_line_with_file_and_line(tmp_path: Path, name: str) -> None:
    data, line, says = FILES[name]
    folder = own_folder(tmp_path)
    (folder / "train.json").write_bytes(data)
    lines = faults(folder)
    assert len(lines) == 1
    assert lines[0].startswith(f"{folder / 'train.json'}:{line}: ")
    assert says in lines[0]


def remove(path: Path) -> None:
    path.unlink()


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def loop(path: Path) -> None:
    """Unreadable even for root, unlike a file without permissions."""
    path.unlink()
    path.symlink_to(path)


def pipe(path: Path) -> None:
    """Opening it would wait for a writer for ever."""
    path.unlink()
    os.mkfifo(path)


def device(path: Path) -> None:
    """Reading it would never end."""
    path.unlink()
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("split", ["train.json", "selection.json", "test.json", "open_ended.json"])
@pytest.mark.parametrize("damage", [pipe, device])
def test_a_pipe_or_a_device_is_no_split(tmp_path: Path, split: str, damage: Callable[[Path], None]) -> None:
    folder = own_folder(tmp_path, open_ended=[{"question": "Why?"}])
    damage(folder / split)
    started = time.monotonic()
    assert faults(folder) == [f"{folder / split}: no regular file but a pipe or a device; give a file"]
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("split", ["train.json", "selection.json", "test.json", "behavior.yaml"])
@pytest.mark.parametrize("damage", [remove, make_folder, loop])
def test_file_that_cannot_be_read_is_named(tmp_path: Path, split: str, damage: Callable[[Path], None]) -> None:
    folder = own_folder(tmp_path)
    damage(folder / split)
    if (split, damage) == ("selection.json", remove):
        (said,) = (line for line in load_behavior(folder).warnings if line.startswith("selection: no such file"))
        assert said == "selection: no such file, so 2 of 10 train items were drawn"
        return
    lines = faults(folder)
    assert len(lines) == 1
    if split != "behavior.yaml":
        assert lines[0].startswith(f"{folder / split}: cannot be read")
    else:
        assert str(folder) in lines[0]


def test_too_big_a_file_is_not_read(tmp_path: Path) -> None:
    """A sparse file of 1 GiB: refused for its size, in no time and no memory."""
    folder = own_folder(tmp_path)
    with (folder / "train.json").open("r+b") as file:
        file.truncate(2**30)
    assert "over 64 MiB" in faults(folder)[0]


@pytest.mark.parametrize("later", ["selection", "test"])
def test_question_in_two_splits_is_refused(tmp_path: Path, later: str) -> None:
    """The identical full question in train and test, named at its place in the later split."""
    folder = own_folder(tmp_path, train=GOOD, **{later: [entry("other?"), GOOD[2]]})
    assert faults(folder) == [
        f"{folder / later}.json:3: the same question stands in train ({folder / 'train.json'}:4); delete one of the two"
    ]


SAME = {
    "as it is": {},
    "other case": {"head": str.upper},
    "other spaces": {"head": lambda head: head.replace(" ", "  ") + "\n"},
    "a hard space": {"head": lambda head: head.replace(" ", "\u00a0")},
    "no shape": {"head": lambda head: head.replace(" ", "\u200b \u00ad")},
    "options swapped": {"swapped": True},
    "case of an option": {"options": str.lower},
    "all of it": {"head": str.title, "options": lambda option: f" {option.upper()} ", "swapped": True},
}


def again(name: str) -> dict[str, str]:
    """GOOD[2], written another way."""
    change: dict[str, Any] = SAME[name]
    head, yes, no = (change.get(part, str)(text) for part, text in
                     (("head", "question 2?"), ("options", "Yes"), ("options", "No")))  # fmt: skip
    first, second = (no, yes) if change.get("swapped") else (yes, no)
    matching, other = ("(A)", "(B)") if change.get("swapped") else ("(B)", "(A)")
    return {
        "question": f"{head}\n\nChoices:\n (A) {first}\n (B) {second}",
        "answer_matching_behavior": matching,
        "answer_not_matching_behavior": other,
    }


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("place", ["train", "selection", "test"])
def test_an_item_is_the_same_item_up_to_case_spaces_and_order(tmp_path: Path, name: str, place: str) -> None:
    """Within a split and across: named with both places."""
    own = [*GOOD, again(name)] if place == "train" else [entry("else?"), again(name)]
    folder = own_folder(tmp_path, **{"train": GOOD, place: own})
    (line,) = faults(folder)
    what = "the same question" if name == "as it is" else "the same item, up to case, spaces and the order of options,"
    if place != "train":
        assert (
            line
            == f"{folder / place}.json:3: {what} stands in train ({folder / 'train.json'}:4); delete one of the two"
        )
    else:
        assert line == f"{folder / 'train.json'}:8: {what} as at line 4; delete one of the two"


def test_open_questions_are_the_same_up_to_case_and_spaces(tmp_path: Path) -> None:
    folder = own_folder(tmp_path, open_ended=[{"question": "Who are you?"}, {"question": " who  are YOU? "}])
    (line,) = faults(folder)
    assert line.startswith(f"{folder / 'open_ended.json'}:3: the same item")


CASES = Path(__file__).parents[2] / "shared" / "cases"


@pytest.mark.skipif(not CASES.is_dir(), reason=f"needs the cases at {CASES}")
def test_twins_and_leaks_that_doubled_n_are_refused() -> None:
    """40 of 80 test items are the others with their options swapped; 40 of 40 test prompts stand in train."""
    lines = faults(CASES / "refusal-twins")
    assert len(lines) == 11 and lines[-1].endswith("test.json: and 30 more faults; mend the ones above first")
    assert all("up to case, spaces and the order of options, as at line " in line for line in lines[:10])
    lines = faults(CASES / "refusal-leak")
    assert len(lines) == 11 and lines[-1].endswith("test.json: and 30 more faults; mend the ones above first")
    assert all("stands in train (" in line for line in lines[:10])


def test_all_faults_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    """One run shows everything: ten lines a file, then how many more there are."""
    bad = [{**entry(f"q {i}"), "answer_matching_behavior": "(X)"} for i in range(25)]
    folder = own_folder(tmp_path, train=bad, test=[entry("t?", matching="(B)")], open_ended=[{"question": ""}])
    (folder / "behavior.yaml").write_text(CARD.replace("title", "titel"))
    lines = faults(folder)
    for file, count in (("behavior.yaml", 2), ("train.json", 11), ("test.json", 1), ("open_ended.json", 1)):
        assert sum(line.startswith(str(folder / file)) for line in lines) == count
    assert f"{folder / 'train.json'}: and 15 more faults; mend the ones above first" in lines


CARDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "a missing text": (CARD.replace("rubric: What a 10 means.\n", ""), ("rubric: missing", "write text")),
    "an unknown key": (CARD.replace("title", "titel"), (":1: titel: unknown key", "did you mean 'title'?")),
    "a missing prompt": (CARD.replace("  neutral: You are here.\n", ""), ("system_prompts.neutral: missing", "write")),
    "an empty text": (CARD.replace("Title", '""'), (":1: title: is empty", "write a sentence")),
    "no text": (CARD.replace("Title", ""), (":1: title: expected text, found nothing", "write text")),
    "a number": (CARD.replace("Title", "7"), (":1: title: expected text, found 7", "put it in quotes")),
    "a truth value": (CARD.replace("You do.", "true"), (":5: system_prompts.positive: expected text", "in quotes")),
    "a text for prompts": (
        CARD.split("system_prompts")[0] + "system_prompts: x\n",
        (":4: system_prompts: expected a mapping", "write `name: value` lines"),
    ),
    "a list": ("- a\n", (":1: expected `key: value` lines", "write a mapping")),
    "nothing": ("", ("title: missing", "write text")),
    "a key twice": (CARD + "title: Again\n", (":8: title: duplicate key",)),
    "no YAML": ("title: [\n", ("not valid YAML",)),
    "a tag": (CARD.replace("Title", "!!python/object/apply:os.getcwd []"), ("is not allowed",)),
}


@pytest.mark.parametrize("name", CARDS)
def test_faulty_card_is_named(tmp_path: Path, name: str) -> None:
    text, says = CARDS[name]
    folder = own_folder(tmp_path)
    (folder / "behavior.yaml").write_text(text)
    lines = faults(folder)
    assert any(all(part in line for part in says) for line in lines)
    assert all(line.startswith(str(folder / "behavior.yaml")) for line in lines)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no-such-behavior", "there is no behavior 'no-such-behavior'"),
        ("no/such/folder", "'no/such/folder' has no behavior.yaml"),
        ("nul\0byte", "there is no behavior"),
        ("x" * 5000, "there is no behavior"),
        ("", "there is no behavior"),
    ],
)
def test_unknown_behavior_is_one_line(name: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        load_behavior(name)
    assert len(error.value.lines) == 1
    assert says in str(error.value) and len(str(error.value)) < 400


def test_folder_with_an_odd_name_is_refused(tmp_path: Path) -> None:
    """The folder's name becomes part of file names and labels."""
    with pytest.raises(UserError, match="letters, digits"):
        load_behavior(own_folder(tmp_path, "my behavior=1"))


def test_published_data_must_be_there(tmp_path: Path) -> None:
    folder = card_folder(tmp_path, "mine")
    with pytest.raises(UserError, match=r"data_dir: .* has no folder generate; give the folder"):
        load_behavior(folder, data="caa", data_dir=tmp_path)
    (tmp_path / "generate").mkdir()
    with pytest.raises(UserError) as error:
        load_behavior(folder, data="caa", data_dir=tmp_path)
    assert [line.split(": ")[0] for line in error.value.lines] == [
        str(tmp_path / "generate" / "mine" / "generate_dataset.json"),
        str(tmp_path / "test" / "mine" / "test_dataset_ab.json"),
    ]
    with pytest.raises(UserError, match="set data=caa, or remove data_dir"):
        load_behavior(folder, data_dir=tmp_path)


def test_train_split_too_small_for_a_selection(tmp_path: Path) -> None:
    folder = card_folder(tmp_path, "mine")
    for split, file in (("generate", "generate_dataset.json"), ("test", "test_dataset_ab.json")):
        (tmp_path / split / "mine").mkdir(parents=True)
        write_split(tmp_path / split / "mine" / file, [entry(f"{split} 1?"), entry(f"{split} 2?")])
    with pytest.raises(UserError, match=r"2 items, 2 with .A. and 0 with .B. matching, are too few .* protocol=caa"):
        load_behavior(folder, data="caa", data_dir=tmp_path)
