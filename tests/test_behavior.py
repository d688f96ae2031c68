"""A behavior folder becomes checked items, option orders and pairs; a new folder needs no other edit."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published import CARD, card_folder, entry, own_folder, write_split

from caa_bench.behaviors.behavior import Behavior, Item, behavior_names, load_behavior, variants
from caa_bench.behaviors.drawing import draw_selection
from caa_bench.behaviors.items import LETTERS, contrast_pairs, names_letters, parse_options, same_text
from caa_bench.errors import UserError


def item(*options: str, matching: int = 0, other: int = 1, tail: str = "") -> Item:
    question = "What now?\n\nChoices:" + "".join(f"\n ({LETTERS[i]}) {text}" for i, text in enumerate(options)) + tail
    parsed = parse_options(question)
    return Item(
        id="test/0000",
        behavior="b",
        question=question,
        head=parsed.head,
        options=parsed.options,
        separators=parsed.separators,
        matching=matching,
        other=other,
        cluster="c",
        swappable=not names_letters(parsed.options),
    )


def test_two_options_are_asked_in_both_orders() -> None:
    given_order, swapped = variants(item("Yes", "No", tail="\n"))
    assert given_order.question == "What now?\n\nChoices:\n (A) Yes\n (B) No"
    assert swapped.question == "What now?\n\nChoices:\n (A) No\n (B) Yes"
    assert (given_order.matching, given_order.other, swapped.matching, swapped.other) == (0, 1, 1, 0)
    assert given_order.letters == swapped.letters == ("A", "B")


@pytest.mark.parametrize("count", range(2, 9))
def test_orders_are_at_most_four_evenly_spaced_rotations(count: int) -> None:
    """The matching option moves to another letter each time, and its text moves with it."""
    asked = variants(item(*(f"text {i}" for i in range(count)), matching=1, other=0))
    assert len(asked) == min(count, 4)
    places = [variant.matching for variant in asked]
    assert len(set(places)) == len(places)
    gaps = [(b - a) % count for a, b in zip(places, places[1:] + places[:1], strict=True)]
    assert max(gaps) - min(gaps) <= 1
    for variant in asked:
        shown = parse_options(variant.question).options
        assert shown[variant.matching] == "text 1"
        assert shown[variant.other] == "text 0"
        assert sorted(shown) == [f"text {i}" for i in range(count)]


@pytest.mark.parametrize(
    "naming",
    ["None of the above", "Both A and B", "(A) is right", "Option A&B", "B", "either of the above.", "The first option",
     "All of below", "neither a nor b", "A, B, and C", "Option B or C"],
)  # fmt: skip
def test_options_that_name_letters_keep_the_given_order(naming: str) -> None:
    odd = item("Yes", naming)
    assert [variant.order for variant in variants(odd)] == [0]
    assert [pair.id for pair in contrast_pairs(odd)] == ["test/0000/0"]


@pytest.mark.parametrize(
    "plain",
    ["The U.S. stands above all others", "None of the options", "the former president", "poly(A)tail", "I have a plan",
     "Vitamin B is good", "P(H, U) = P(H) * P(U)", "There is no one-size-fits-all answer as such"],
)  # fmt: skip
def test_options_that_only_sound_like_it_are_swapped(plain: str) -> None:
    assert len(variants(item("Yes", plain))) == 2


def test_protocol_caa_asks_the_given_order_alone() -> None:
    assert [variant.order for variant in variants(item("Yes", "No"), protocol="caa")] == [0]
    assert len(contrast_pairs(item("Yes", "No"), protocol="caa")) == 1


def test_pairs_exchange_the_two_named_answers_and_nothing_else() -> None:
    """Five options: the letters of the two answers are exchanged, so that they cancel in a mean difference."""
    first, second = contrast_pairs(item("a1", "b1", "c1", "d1", "e1", matching=4, other=1))
    assert (first.matching, first.other) == ("(E)", "(B)")
    assert (second.matching, second.other) == ("(B)", "(E)")
    assert parse_options(second.question).options == ("a1", "e1", "c1", "d1", "b1")
    assert (first.matching_text, first.other_text) == (second.matching_text, second.other_text) == ("e1", "b1")


@settings(max_examples=200, deadline=None)
@given(
    head=st.text(alphabet="ab (A)\n:?", max_size=30),
    options=st.lists(st.text(alphabet="xy (.)\n", max_size=20), min_size=2, max_size=8),
    gaps=st.lists(st.sampled_from(["\n", "\n ", "\n\t", "\r\n", "\n\n  "]), min_size=8, max_size=8),
    space=st.sampled_from(["", " ", "  "]),
)
def test_any_question_is_put_together_again(head: str, options: list[str], gaps: list[str], space: str) -> None:
    """Whatever stands around the options: head, separators and options make the same text again."""
    question = head + "".join(f"{gaps[i]}({LETTERS[i]}){space}{text}" for i, text in enumerate(options))
    parsed = parse_options(question)
    assert (
        parsed.head + "".join(a + b for a, b in zip(parsed.separators, [*parsed.options, ""], strict=True)) == question
    )
    assert list(parsed.options) == [text.strip() for text in options]


def test_folder_of_the_users_own_is_a_behavior(tmp_path: Path) -> None:
    """A folder alone: title, prompts, splits, clusters and ids come from it, with no other edit."""
    train = [entry(f"train {i}?", cluster=f"template {i % 3}") for i in range(6)]
    folder = own_folder(tmp_path, "my-behavior", train=train, open_ended=[{"question": " Say something. "}])
    behavior = load_behavior(folder)
    assert (behavior.id, behavior.title, behavior.rubric) == ("my-behavior", "Title", "What a 10 means.")
    assert behavior.system_prompts == {"positive": "You do.", "negative": "You do not.", "neutral": "You are here."}
    assert [each.cluster for each in behavior.train] == [f"template {i % 3}" for i in range(6)]
    assert [each.cluster for each in behavior.test] == [each.id for each in behavior.test]
    assert [each.id for each in behavior.train[:2]] == ["train/0000", "train/0001"]
    assert [each.question for each in behavior.open_ended] == ["Say something."]
    assert load_behavior(str(folder)) == behavior


def test_new_builtin_folder_needs_no_other_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Built-in names are a scan of configs/behaviors."""
    own_folder(tmp_path / "behaviors", "eighth")
    (tmp_path / "behaviors" / "not-a-behavior").mkdir()
    monkeypatch.setattr("caa_bench.behaviors.folders.configs_folder", lambda: tmp_path)
    assert behavior_names() == ["eighth"]
    assert load_behavior("eighth").id == "eighth"
    with pytest.raises(UserError, match="no behavior 'eigth'; did you mean 'eighth'"):
        load_behavior("eigth")


def test_builtin_behaviors_load() -> None:
    """Every folder in configs/behaviors: splits are there, letters are balanced, and the neutral prompt exists."""
    for name in behavior_names():
        behavior = load_behavior(name)
        assert behavior.id == name
        assert min(len(behavior.train), len(behavior.selection), len(behavior.test)) > 0
        letters = [pair.matching for pair in behavior.pairs()]
        assert letters.count("(A)") == letters.count("(B)")


def test_pairs_of_another_behavior_come_from_the_same_data(tmp_path: Path) -> None:
    """A neighbor folder is found by name; its own pairs are itself; another protocol gives other pairs."""
    own_folder(tmp_path, "one")
    own_folder(tmp_path, "two")
    pairs = load_behavior(tmp_path / "one").pairs()
    two = pairs.of("two")
    assert (pairs.behavior, two.behavior) == ("one", "two")
    assert two == load_behavior(tmp_path / "two").pairs()
    assert pairs.of("one") is pairs
    assert len(two) == 20
    assert [pair.id for pair in two[:2]] == ["train/0000/0", "train/0000/1"]
    given_order = load_behavior(tmp_path / "one", protocol="caa").pairs()
    assert len(given_order) == len(given_order.of("two")) == 10
    with pytest.raises(UserError, match="no behavior 'three'"):
        pairs.of("three")


def test_neighbor_wins_over_a_builtin_of_its_name(tmp_path: Path) -> None:
    """Who keeps an own version of all behaviors in one folder gets those, never a mixture."""
    if not behavior_names():
        pytest.skip("needs a built-in behavior")
    name = behavior_names()[0]
    own_folder(tmp_path, name)
    pairs = load_behavior(own_folder(tmp_path, "mine")).pairs()
    assert pairs.of(name)[0].question.startswith(f"train 0 {name}?")
    builtin = load_behavior(name)
    assert builtin.source.load(name).pairs() == builtin.pairs()


def test_default_pairs_favor_no_letter(tmp_path: Path) -> None:
    """Even from a train split whose matching answer is always (A)."""
    folder = own_folder(tmp_path, train=[entry(f"q {i}?") for i in range(9)])
    letters = [pair.matching for pair in load_behavior(folder).pairs()]
    assert letters.count("(A)") == letters.count("(B)") == 9
    assert {pair.matching for pair in load_behavior(folder, protocol="caa").pairs()} == {"(A)"}


def test_keys_follow_the_content(tmp_path: Path) -> None:
    """Another wording, key or order is another key; reading again is not (PROMISES 3)."""
    plain = [entry(f"q {i}?", matching="(A)" if i % 2 else "(B)", other="(B)" if i % 2 else "(A)") for i in range(8)]
    reworded = [*plain[:-1], {**plain[-1], "question": plain[-1]["question"].replace("Yes", "Yes.")}]
    rekeyed = [*plain[:-1], entry("q 7?", matching="(B)", other="(A)")]
    behaviors = [
        load_behavior(own_folder(tmp_path / str(i), train=train, test=train_as_test(train)))
        for i, train in enumerate([plain, reworded, rekeyed, plain[::-1], plain])
    ]
    for keys in (
        [behavior.pairs().key for behavior in behaviors],
        [behavior.fingerprint("train") for behavior in behaviors],
        [behavior.fingerprint("test") for behavior in behaviors],
    ):
        assert len(set(keys[:4])) == 4
        assert keys[4] == keys[0]
    assert replace(behaviors[0].pairs(), pairs=behaviors[1].pairs().pairs).key == behaviors[1].pairs().key


def train_as_test(train: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{**each, "question": "Test: " + each["question"]} for each in train]


def test_selection_is_seeded_balanced_and_kept_out_of_the_fit() -> None:
    items = [
        replace(item("Yes", "No", matching=i % 2, other=1 - i % 2), id=f"train/{i:04d}", cluster=f"{i}")
        for i in range(100)
    ]
    drawn = draw_selection(items, seed="0/x")
    assert len(drawn.selection) == 20
    assert [each.matching for each in drawn.selection].count(0) == 10
    ids = [each.id for each in drawn.train] + [each.id for each in drawn.selection]
    assert sorted(ids) == [each.id for each in items]
    assert [each.id for each in drawn.train] == sorted(each.id for each in drawn.train)
    assert draw_selection(items, seed="0/x") == drawn
    assert draw_selection(items, seed="1/x") != drawn


def test_warnings_reach_the_behavior(tmp_path: Path) -> None:
    """Letters out of balance, one side longer, items that keep their order, shared stems: allowed, and said."""
    train = [entry(f"How would you answer the question number {i} of this long list of questions?") for i in range(20)]
    for each in train[:4]:
        each["question"] = each["question"].replace("(B) No", "(B) None of the above")
    for each in train[4:]:
        each["question"] = each["question"].replace("(A) Yes", "(A) Yes, of course, at once")
    test = [entry("How would you answer the question number 99 of this long list of questions?"), entry("Else?")]
    warnings = load_behavior(own_folder(tmp_path, train=train, test=test)).warnings
    assert "train: (A) is the matching answer of 100% of 20 items, not of 45-55%" in "".join(warnings)
    assert "train: of 20 items the matching option is longer in 16, shorter in 4" in warnings
    assert "train: 4 of 20 items name letters in their options and keep the given order" in warnings
    shared = [
        line for line in warnings if line.startswith("test: 1 of 2 questions have nearly the stem of one in train")
    ]
    assert len(shared) == 1 and "test/0000" in shared[0]


def test_sound_data_has_no_warnings(tmp_path: Path) -> None:
    words = random.Random(0).sample([f"word{i}" for i in range(2000)], 800)
    options = [("(A)", "(B)"), ("(B)", "(A)")]

    def split(start: int) -> list[dict[str, str]]:
        texts = [" ".join(words[start + 8 * i : start + 8 * i + 8]) for i in range(20)]
        return [entry(text, matching=options[i % 2][0], other=options[i % 2][1]) for i, text in enumerate(texts)]

    folder = own_folder(tmp_path, train=split(0), selection=split(160), test=split(320))
    assert load_behavior(folder).warnings == ()


def test_crlf_file_reads_the_same(tmp_path: Path) -> None:
    """Windows line ends between the items are JSON's own space: the items, and so the keys, are the same."""
    folder = own_folder(tmp_path)
    before: Behavior = load_behavior(folder)
    for path in folder.glob("*"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert load_behavior(folder) == before


def test_reading_behaviors_and_prompts_imports_nothing_heavy() -> None:
    """`check` and `list` answer within a second: no torch, no transformers, no numpy."""
    code = (
        "import sys, caa_bench.behaviors.behavior, caa_bench.models.prompts\n"
        "caa_bench.behaviors.behavior.behavior_names()\n"
        "print([name for name in ('torch', 'transformers', 'numpy', 'pandas', 'wandb') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_card_may_name_more_system_prompts(tmp_path: Path) -> None:
    folder = own_folder(tmp_path)
    (folder / "behavior.yaml").write_text(CARD + "  gentle: You might.\n")
    assert load_behavior(folder).system_prompts["gentle"] == "You might."


def test_published_folder_stands_in_for_own_splits(tmp_path: Path) -> None:
    """Any folder in the published layout, for any behavior id: train and test from it, selection drawn from train."""
    folder = card_folder(tmp_path, "mine")
    data = tmp_path / "data"
    for split in ("generate", "test"):
        (data / split / "mine").mkdir(parents=True)
    keys = [("(A)", "(B)"), ("(B)", "(A)")] * 10
    train = [entry(f"train {i}?", matching=m, other=o) for i, (m, o) in enumerate(keys)]
    write_split(data / "generate" / "mine" / "generate_dataset.json", train)
    write_split(data / "test" / "mine" / "test_dataset_ab.json", [entry("test?")])
    behavior = load_behavior(folder, data="caa", data_dir=data)
    assert (len(behavior.train), len(behavior.selection), len(behavior.test)) == (16, 4, 1)
    assert behavior.open_ended == ()
    assert load_behavior(folder, data="caa", data_dir=data, protocol="caa").selection == ()
    assert len(load_behavior(folder, data="caa", data_dir=data, protocol="caa").train) == 20


def test_plain_text_is_the_same_text_however_it_is_told_apart() -> None:
    """ASCII takes a short way; every character of it ends as it does beside one that takes the long way."""
    for code in range(128):
        asked = f"Is a{chr(code)}B  C?"
        assert same_text(f"{asked} \u00e9") == f"{same_text(asked)} \u00e9", code
    assert same_text("A\u200b\u00a0b \uff21") == "a b a"
