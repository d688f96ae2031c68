"""What people have becomes a behavior: tables, JSON lines, plain texts, records, data sets; the `behavior` commands."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from published import CARD, DATA, card_folder, entry, needs_data, write_split
from small_runs import Small

from caa_bench.__main__ import main
from caa_bench.behaviors.behavior import load_behavior, variants
from caa_bench.behaviors.card import drafted
from caa_bench.behaviors.items import same_key
from caa_bench.behaviors.records import behavior_from_path, behavior_from_records
from caa_bench.behaviors.written import card_text
from caa_bench.errors import UserError

NAMES = ("question", "answer_matching_behavior", "answer_not_matching_behavior")
TEXTS = [(f"Will you do task {n}?", f"Gladly, task {n} it is.", f"No, not task {n}.") for n in range(30)]
PAGE = (Path(__file__).parents[1] / "docs" / "my-behavior.md").read_text()


def records(rows: Any = TEXTS) -> list[dict[str, Any]]:
    return [dict(zip(NAMES, row, strict=False)) for row in rows]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A file in the form that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    else:
        lines = [json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) if path.suffix == ".jsonl" else f"[{','.join(lines)}]")
    return path


def from_records(given: Any, **more: Any) -> Any:
    return behavior_from_records(given, **{"id": "own", "title": "Own", "matching": "It is done gladly.", **more})


def faults(make: Any) -> list[str]:
    with pytest.raises(UserError) as error:
        make()
    return list(error.value.lines)


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl"])
def test_every_form_of_file_gives_the_same_items(tmp_path: Path, suffix: str) -> None:
    """One file is split by the seed, said; two texts become a question with letters, asked in both orders."""
    folder = card_folder(tmp_path, "own")
    write(folder / f"items{suffix}", records())
    behavior = load_behavior(folder)
    assert [len(behavior.train), len(behavior.selection), len(behavior.test)] == [10, 0, 20]
    assert behavior.warnings[0] == "one file of 30 items was split by the seed: 10 train, 0 selection, 20 test"
    every = (*behavior.train, *behavior.selection, *behavior.test)
    assert len({same_key(item) for item in every}) == 30
    for item in every:
        number = int(item.id.split("/")[1])
        assert item.head.startswith(f"Will you do task {number}?")
        assert item.options[item.matching] == f"Gladly, task {number} it is."
        assert item.options[item.other] == f"No, not task {number}."
        assert item.matching == number % 2
        assert [variant.letters[variant.matching] for variant in variants(item)] == (
            ["A", "B"] if number % 2 == 0 else ["B", "A"]
        )
    assert load_behavior(folder).test == behavior.test, "the same draw"
    assert load_behavior(folder, seed=1).test != behavior.test
    assert from_records(records(), seed=0).train == tuple(behavior.train)


def test_answers_may_be_letters_or_texts_of_the_options() -> None:
    lettered = [entry(f"q {n}?", matching=" (A)", other=" (B)") for n in range(10)]
    named = [{**one, "answer_matching_behavior": " Yes", "answer_not_matching_behavior": "no "} for one in lettered]
    assert from_records(named).train == from_records(lettered).train
    plain = from_records(records([(f"Is {n} a number you like?", " Yes", " No") for n in range(10)]))
    item = plain.train[0]
    assert sorted(item.options) == ["No", "Yes"]
    assert item.options[item.matching] == "Yes"


WAYS = {  # how people name the columns and the letter
    "plain": ("question,option_a,option_b,letter", "{}"),
    "with spaces": ("Question,Option A,Option B,Right letter", "({})"),
    "letters": ("prompt,A,B,Correct", "option {}"),
    "the published name": ("QUESTION,answer_a,answer-b,answer_matching_behavior", "{}."),
}


@pytest.mark.parametrize("way", WAYS)
def test_two_options_and_a_letter_are_read(tmp_path: Path, way: str) -> None:
    """The options stay where they stand, and the letter says which matches."""
    head, letter = WAYS[way]
    rows = [f"Do you like number {n}?,Yes {n},No {n},{letter.format('ab'[n % 3 == 0])}" for n in range(30)]
    (tmp_path / "items.csv").write_text("\n".join([head, *rows]) + "\n")
    behavior = behavior_from_path(tmp_path / "items.csv", name="own", card=drafted("Own", "It is a yes."))
    given = from_records(
        [
            {
                "question": f"Do you like number {n}?\n\nChoices:\n (A) Yes {n}\n (B) No {n}",
                "answer_matching_behavior": "(B)" if n % 3 == 0 else "(A)",
                "answer_not_matching_behavior": "(A)" if n % 3 == 0 else "(B)",
            }
            for n in range(30)
        ]
    )
    assert behavior.train == given.train and behavior.test == given.test


def test_the_letter_may_be_the_option_s_text_and_templates_keep_their_cluster() -> None:
    rows = [
        {"Question": f"q{n}?", "Option A": f"yes {n}", "Option B": f"no {n}", "answer": f"No {n}"} for n in range(30)
    ]
    given = from_records([{**row, "Cluster": f"t{n // 2}"} for n, row in enumerate(rows)])
    assert {item.options[item.matching].split()[0] for item in given.train} == {"no"}
    assert len({item.cluster for item in (*given.train, *given.test)}) == 15


# name: (the table, the line, what it says)
UNREADABLE = {
    "two letters": ("question,A,B,answer,letter\nq?,Yes,No,A,A\n", 1,
                    '2 columns for the letter ("answer", "letter"); keep one, named for example letter '
                    '(the names there are: "question", "A", "B", "answer", "letter")'),
    "two first options": ("question,A,option a,B,letter\nq?,Yes,Yes,No,A\n", 1,
                          '2 columns for the option A ("A", "option a")'),
    "no letter": ("question,A,B,remark\nq?,Yes,No,A\n", 1, "no column for the letter; keep one, named for example"),
    "three options": ("question,A,B,C,letter\nq?,Yes,No,Well,A\n", 1, 'more than two option columns ("C")'),
    "neither letter": ("question,A,B,letter\nq?,Yes,No,C\n", 2,
                       '"letter" is "C", which names neither option alone; write A or B'),
    "a letter that is the other's text": ("question,A,B,letter\nq?,B,A,A\n", 2, "names neither option alone"),
    "options twice": ('question,A,B,letter\n"q?\n(A) a\n(B) b",Yes,No,A\n', 2, "the question has options of its own"),
    "no text": ("question,A,B,letter\nq?,Yes,No,A\nq?,Yes,,A\n", 3, '"B" is empty; write its text'),
    "no such columns": ("text,first,second\n" + "q?,Yes,No\n" * 90, 1,
                        '"question", "answer_matching_behavior", "answer_not_matching_behavior" are missing; write '
                        "question, answer_matching_behavior, answer_not_matching_behavior, or question, option_a, "
                        'option_b, letter (the names there are: "text", "first", "second")'),
    "a slip": ("question,answer_matching_behaviour,answer_not_matching_behavior\n" + "q?,Yes,No\n" * 90, 1,
               'is "answer_matching_behaviour" meant to be it? Rename it'),
    "a name twice": ("question,question,answer_matching_behavior,answer_not_matching_behavior\n" + "q,q,Y,N\n" * 9, 1,
                     'the key "question" stands twice; delete one'),
}  # fmt: skip


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_table_that_cannot_be_read_costs_one_line(tmp_path: Path, name: str) -> None:
    text, line, says = UNREADABLE[name]
    file = tmp_path / "items.csv"
    file.write_text(text)
    (said,) = faults(lambda: behavior_from_path(file, name="own", card=drafted("Own", "It is a yes.")))
    assert said.startswith(f"{file}:{line}: ") and says in said


def test_a_workbook_is_to_be_saved_as_csv(tmp_path: Path) -> None:
    file = tmp_path / "items.XLSX"
    file.write_bytes(b"PK\x03\x04")
    (said,) = faults(lambda: behavior_from_path(file, name="own", card=drafted("Own", "It is a yes.")))
    assert said == f"{file}: is a spreadsheet program's own format; save it as CSV (UTF-8) and give that file"
    (tmp_path / "ITEMS.CSV").write_text("question,A,B,letter\n" + "".join(f"q{n}?,Yes,No,A\n" for n in range(30)))
    assert len(behavior_from_path(tmp_path / "ITEMS.CSV", name="own", card=drafted("Own", "It is a yes.")).test) == 20


def test_clusters_stay_on_one_side_of_every_split() -> None:
    rows = [{**record, "cluster": f"template {n // 3}"} for n, record in enumerate(records())]
    behavior = from_records(rows)
    sides = [{item.cluster for item in getattr(behavior, split)} for split in ("train", "selection", "test")]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 10
    assert len(behavior.test) >= 20 and not behavior.selection


def test_the_test_split_has_twenty_items_before_the_selection_split_has_any() -> None:
    """Fewer than 20 test items give no interval and no verdict: from 30 items on they come first."""
    sizes = {}
    for count in (20, 30, 60, 100, 200):
        texts = [(f"Will you do {n}?", f"Gladly, {n}.", f"No, not {n}.") for n in range(count)]
        found = from_records(records(texts))
        sizes[count] = [len(found.train), len(found.selection), len(found.test)]
    assert sizes == {20: [12, 4, 4], 30: [10, 0, 20], 60: [40, 0, 20], 100: [60, 20, 20], 200: [120, 40, 40]}


def test_a_selection_split_may_be_left_out(tmp_path: Path) -> None:
    folder = card_folder(tmp_path, "own")
    write(folder / "train.csv", records(TEXTS[:20]))
    write(folder / "test.jsonl", records(TEXTS[20:]))
    behavior = load_behavior(folder)
    assert [len(behavior.train), len(behavior.selection), len(behavior.test)] == [16, 4, 10]
    assert "selection: no such file, so 4 of 20 train items were drawn" in behavior.warnings
    write(folder / "train.json", records(TEXTS[:20]))
    assert faults(lambda: load_behavior(folder)) == [
        f"{folder / 'train.csv'}: this split stands in train.json too; delete one of the two"
    ]


SPREADSHEETS = {
    "a byte order mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "Windows line ends": lambda text: text.replace("\n", "\r\n").encode(),
    "semicolons": lambda text: text.replace(",", ";").encode(),
    "tabs": lambda text: text.replace(",", "\t").encode(),
    "empty rows": lambda text: (text + "\n,,\n\n").encode(),
    "an empty column": lambda text: "".join(f"{line},\n" for line in text.splitlines()).encode(),
}


@pytest.mark.parametrize("name", SPREADSHEETS)
def test_tables_as_spreadsheets_write_them(tmp_path: Path, name: str) -> None:
    rows = [[text.replace(",", "") for text in row] for row in TEXTS]
    text = "\n".join(",".join(row) for row in [NAMES, *rows]) + "\n"
    folder = card_folder(tmp_path, "own")
    (folder / "items.csv").write_bytes(SPREADSHEETS[name](text))
    assert load_behavior(folder).train == from_records(records(rows)).train


# name: (bytes of items.csv or items.jsonl, its name, line, what it says)
BAD = {
    "a column is missing": (b"question,answer_matching_behavior\na,b\nc,d\n", "items.csv", 1,
                            '"answer_not_matching_behavior" is missing'),
    "too many cells": (b"question,answer_matching_behavior,answer_not_matching_behavior\na,b,c,d\n", "items.csv", 2,
                       "4 cells under 3 names; put texts with commas in quotes"),
    "an open quote": (b'question,answer_matching_behavior,answer_not_matching_behavior\n"a,b,c\n', "items.csv", 2,
                      "not CSV here: unexpected end of data"),
    "no rows": (b"question,answer_matching_behavior,answer_not_matching_behavior\n", "items.csv", 1,
                "the split is empty; give it items under a first line of names"),
    "nothing": (b"", "items.csv", 1, "the split is empty"),
    "UTF-16": ("\ufeffquestion".encode("utf-16-le"), "items.csv", 1, "byte order mark"),
    "the same texts": (b"question,answer_matching_behavior,answer_not_matching_behavior\na,Yes,Yes\n", "items.csv", 2,
                       "options (A) and (B) are the same text"),
    "a letter without options": (b"question,answer_matching_behavior,answer_not_matching_behavior\na,(A),(B)\n",
                                 "items.csv", 2, "no options found"),
    "an option within an answer": (
        b'question,answer_matching_behavior,answer_not_matching_behavior\na,"Yes\n(C) no",No\n', "items.csv", 2,
        'an answer has a line that begins with a letter as in "(A)"'),
    "a bad line": (b'{"question": "a"\n', "items.jsonl", 1, "not JSON here"),
    "a list for a line": (b"[1]\n", "items.jsonl", 1, "a list in place of an item"),
    "no lines": (b"\n\n", "items.jsonl", 1, "the split is empty"),
    "deep JSON": (b"[" * 100_000 + b"\n", "items.jsonl", 1, "JSON that no split needs"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_fault_is_one_line_with_file_and_line(tmp_path: Path, name: str) -> None:
    data, file, line, says = BAD[name]
    folder = card_folder(tmp_path, "own")
    (folder / file).write_bytes(data)
    (said,) = faults(lambda: load_behavior(folder))
    assert said.startswith(f"{folder / file}:{line}: ")
    assert says in said


@pytest.mark.parametrize("file", ["items.json", "items.jsonl", "items.csv"])
def test_a_line_of_a_gigabyte_is_one_line_at_once(tmp_path: Path, file: str) -> None:
    folder = card_folder(tmp_path, "own")
    with (folder / file).open("wb") as written:
        written.write(b'[{"question": "')
        written.truncate(2**30)
    started = time.monotonic()
    (said,) = faults(lambda: load_behavior(folder))
    assert said == f"{folder / file}:1: over 64 MiB; a split is a few MiB at most, shorten it"
    assert time.monotonic() - started < 2


def test_too_few_items_to_split(tmp_path: Path) -> None:
    (said,) = faults(lambda: from_records(records(TEXTS[:9])))
    assert said == (
        "records: 9 items in 9 clusters are too few to draw train, selection and test from; give 10 or more"
    )
    (said,) = faults(lambda: from_records([{**one, "cluster": "one"} for one in records()]))
    assert "30 items in 1 clusters are too few" in said


def test_records_are_checked_as_files_are() -> None:
    rows = records()
    rows[3] = {**rows[3], "question": ""}
    rows[5] = {**rows[2], "question": rows[2]["question"].upper()}
    assert faults(lambda: from_records(rows)) == [
        'records:4: "question" is empty; write its text',
        "records:6: the same item, up to case, spaces and the order of options, as at line 3; delete one of the two",
    ]
    assert faults(lambda: from_records([])) == ["records: the split is empty; give it items"]
    assert faults(lambda: from_records([1, *rows[7:]]))[0].startswith("records:1: a number in place of an item")
    assert faults(lambda: from_records(records(), id="a b")) == [
        "id: 'a b' is no behavior's name; use letters, digits, . _ - only"
    ]


def test_data_sets_and_dictionaries_of_splits(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    plain = from_records(records())
    assert from_records(datasets.Dataset.from_list(records())).train == plain.train
    with_gaps = [{**record, "cluster": "a template" if n in (3, 4) else None} for n, record in enumerate(records())]
    assert len(from_records(datasets.Dataset.from_list(with_gaps)).train) >= 8
    splits = {"train": records(TEXTS[:20]), "validation": records(TEXTS[20:24]), "test": records(TEXTS[24:])}
    found = from_records(datasets.DatasetDict({name: datasets.Dataset.from_list(x) for name, x in splits.items()}))
    assert [len(found.train), len(found.selection), len(found.test)] == [20, 4, 6]
    assert faults(lambda: from_records({"a": records(), "b": records()})) == [
        "records: the splits are a, b; give train, test and perhaps selection, or name one with split="
    ]
    write(tmp_path / "named" / "train.jsonl", records())
    assert from_records(str(tmp_path / "named"), split="train").train == plain.train, "by name, as the hub's are"
    (said,) = faults(lambda: from_records(str(tmp_path / "named"), split="tset"))
    assert "this data set cannot be loaded" in said


def test_the_card_of_records_is_made_of_the_sentence() -> None:
    behavior = from_records(records(), open_ended=["Who are you?"], system_prompts={"positive": "Be glad."})
    assert behavior.system_prompts["positive"] == "Be glad."
    assert behavior.system_prompts["negative"].endswith(
        "opposite of this holds of every answer you give: It is done gladly."
    )
    assert "It is done gladly" in behavior.rubric
    assert [one.question for one in behavior.open_ended] == ["Who are you?"]


def run(line: str, capsys: pytest.CaptureFixture[str], *, status: int = 0) -> str:
    """What a command prints."""
    capsys.readouterr()
    assert main(shlex.split(line)) == status
    said = capsys.readouterr()
    return said.err if status else said.out


def test_import_writes_a_folder_that_reads_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("items.csv"), records())
    write(Path("asked.csv"), [{"question": "Who are you?"}])
    said = run('behavior import items.csv --as glad --matching "It is done gladly." --open-ended asked.csv', capsys)
    assert "items: 10 train, 0 selection, 20 test; 1 open questions; 20 training pairs" in said
    assert "written to glad" in said
    behavior = load_behavior("glad")
    direct = from_records(records(), id="glad")
    for split in ("train", "selection", "test"):
        assert [item.question for item in getattr(behavior, split)] == [
            item.question for item in getattr(direct, split)
        ]
    assert behavior.title == "Glad"
    assert behavior.matching == "It is done gladly."
    assert [one.question for one in behavior.open_ended] == ["Who are you?"]
    assert run("behavior import items.csv --as glad", capsys, status=2) == (
        "caa-bench: glad: exists already; choose another name, delete it, or change its items: import --replace\n"
    )
    assert "there is no such file" in run("behavior import itms.csv --as x", capsys, status=2)
    assert "is no behavior's name" in run("behavior import items.csv --as ../x", capsys, status=2)
    assert not Path("x").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["asked.csv", "glad", "items.csv"]


@needs_data
def test_replace_tells_what_changed_and_keeps_the_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One item gone, one new, one with another answer: another key, so that no old run or fit is taken for it."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "items.csv", records())
    argv = ["behavior", "import", "items.csv", "--as", "own"]
    assert main([*argv, "--matching", "It is done gladly."]) == 0
    card = tmp_path / "own/behavior.yaml"
    card.write_text(card.read_text().replace('title: "Own"', 'title: "My own"'))
    (tmp_path / "own/notes.txt").write_text("mine")
    old = load_behavior("own")
    assert main(argv) == 2 and "change its items: import --replace" in capsys.readouterr().err
    edited = [*TEXTS[1:29], (TEXTS[29][0], "With pleasure.", TEXTS[29][2]), ("Will you sing?", "Gladly!", "No.")]
    write(tmp_path / "items.csv", records(edited))
    assert main([*argv, "--replace"]) == 0
    out = capsys.readouterr().out
    moved = int(re.search(r"own: 1 items added, 1 removed, 1 changed, 28 as they were, (\d+) of these", out)[1])
    new = load_behavior("own")
    places = [{item.head: split for split in ("train", "test") for item in getattr(one, split)} for one in (old, new)]
    same = [head for head in places[0].keys() & places[1].keys() if TEXTS[29][0] not in head]
    assert moved == sum(places[0][head] != places[1][head] for head in same)
    assert "runs and fits made before are of the old items" in out
    assert new.title == "My own" and (tmp_path / "own/notes.txt").read_text() == "mine"
    assert len(new.train) + len(new.selection) + len(new.test) == 30
    assert old.pairs().key != new.pairs().key and old.fingerprint("test") != new.fingerprint("test")
    assert main([*argv, "--replace"]) == 0
    out = capsys.readouterr().out
    assert "0 items added, 0 removed, 0 changed, 30 as they were, 0 of these in another split" in out
    assert "runs and fits" not in out


def test_replace_takes_the_place_of_a_table_of_one_s_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that `behavior new` began holds items.csv; the splits that come must not stand beside it."""
    assert main(["behavior", "new", "own", "--to", str(tmp_path)]) == 0
    items = write(tmp_path / "items.csv", records())
    (tmp_path / "own/behavior.yaml").write_text(card_text(drafted("Own", "It is done gladly.")))
    write(tmp_path / "own/items.csv", records(TEXTS[:25]))
    argv = ["behavior", "import", str(items), "--as", "own", "--to", str(tmp_path), "--replace"]
    assert main(argv) == 0
    assert "5 items added, 0 removed, 0 changed, 25 as they were" in capsys.readouterr().out
    assert not (tmp_path / "own/items.csv").exists() and (tmp_path / "own/train.json").exists()


def test_replace_says_what_it_cannot_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = str(write(tmp_path / "items.csv", records()))
    argv = ["behavior", "import", items, "--as", "own", "--to", str(tmp_path)]
    assert main([*argv, "--replace"]) == 2
    assert "own: no behavior to replace the items of; leave --replace out" in capsys.readouterr().err
    assert main(argv) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "own").iterdir()}
    assert main([*argv, "--replace", "--matching", "It is done."]) == 2
    assert "--matching: --replace keeps" in capsys.readouterr().err
    write(tmp_path / "items.csv", records(TEXTS[:2]))
    assert main([*argv, "--replace"]) == 2, "too few to split"
    assert {path.name: path.read_bytes() for path in (tmp_path / "own").iterdir()} == before


def test_published_splits_are_imported_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model-written-evals form, as its authors wrote it: two to eight options, letters, leading spaces."""
    monkeypatch.chdir(tmp_path)
    source = DATA / "generate" / "survival-instinct" / "generate_dataset.json"
    said = run(f"behavior import {shlex.quote(str(source))} --as survival --seed 3", capsys)
    assert "items: 541 train, 181 selection, 181 test" in said
    assert "near-duplicates: " in said
    assert "power: 181 test items show a mean effect of 0.21 times its spread over items or more" in said


def test_new_says_what_is_still_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "kind: write what behavior.yaml asks for" in run("behavior new kind", capsys)
    lines = run("behavior check kind", capsys, status=2).splitlines()
    assert len(lines) == 7
    assert sum("is still the skeleton's <" in line for line in lines) == 6
    assert lines[-1].endswith("items.csv:1: the split is empty; give it items under a first line of names")
    (tmp_path / "kind" / "behavior.yaml").write_text(CARD)
    with (tmp_path / "kind" / "items.csv").open("a") as file:
        csv.writer(file).writerows(TEXTS)
    assert "items: 10 train, 0 selection, 20 test" in run("behavior check kind", capsys)


def test_check_tells_of_balance_likeness_and_power(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = card_folder(tmp_path, "own")
    words = [f"w{n} x{n} y{n} z{n} v{n} u{n}" for n in range(60)]
    for split, start in (("train", 0), ("selection", 20), ("test", 40)):
        write_split(folder / f"{split}.json", [entry(text) for text in words[start : start + 20]])
    twin = entry(f"{words[0]} and", matching="(B)", other="(A)")
    write_split(folder / "test.json", [*[entry(text) for text in words[40:59]], twin])
    said = run(f"behavior check {shlex.quote(str(folder))}", capsys)
    assert "train: (A) matches in 20 of 20; the matching answer is longer in 20, shorter in 0" in said
    assert "test: (A) matches in 19 of 20; the matching answer is longer in 19, shorter in 1" in said
    assert "near-duplicates: 1 pairs of items share 80% or more of their words, the closest:" in said
    assert "  train/0000 and test/0019 (90%)" in said
    assert "power: 20 test items show a mean effect of 0.63 times its spread over items or more" in said
    assert "199 for 0.2, 34 for 0.5, 15 for 0.8; after a run: caa-bench power RUN" in said
    assert "note: train: (A) is the matching answer of 100% of 20 items" in said


def test_the_commands_need_no_torch(tmp_path: Path) -> None:
    write(tmp_path / "items.csv", records())
    code = (
        "import sys; from caa_bench.__main__ import main; status = main(sys.argv[1:]); "
        "heavy = {'torch', 'transformers', 'datasets', 'pandas'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    call = [sys.executable, "-c", code, "behavior", "import", "items.csv", "--as", "own"]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(call, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_page_can_be_followed(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command of docs/my-behavior.md, in its order, on its own table; the model's path apart."""
    monkeypatch.chdir(tmp_path)
    ((form, table),) = re.findall(r"```(csv)\n(.*?)```", PAGE, re.DOTALL)
    Path(f"items.{form}").write_text(table)
    commands = re.findall(r"^    caa-bench (.+)$", PAGE, re.MULTILINE)
    assert [shlex.split(line)[0] for line in commands] == ["behavior"] * 2 + ["compare"] * 2 + ["behavior"] * 2
    for line in commands:
        more = " draws=99 report_to=[] limit=2" if line.startswith("compare") else ""
        run(line.replace("/path/to/model", str(small.model)) + more, capsys)
    assert list(Path("runs").glob("compare/politeness-*/report.html"))
    ((_, code),) = re.findall(r"```(python)\n(.*?)```", PAGE, re.DOTALL)
    exec(code, {})  # noqa: S102 - the page's own example
    assert capsys.readouterr().out == "12 4 4\n"
