"""The split files of the embedded model: counts, balance, and nothing held out that leaks into training."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import yaml

from caa_bench.tiny import corpus
from caa_bench.tiny.facts import PASSAGES, capability_items, draw_fact, passages
from caa_bench.tiny.rows import draw_rows
from caa_bench.tiny.words import BEHAVIORS, behavior_words, fillers, shared_words

REPO = Path(__file__).parents[1]
CONFIGS = REPO / "configs" / "behaviors"
CAPABILITY = REPO / "caa_bench" / "tiny" / "capability.json"


def load(behavior: str, name: str) -> list[dict[str, str]]:
    return json.loads((CONFIGS / behavior / f"{name}.json").read_text(encoding="utf-8"))


def options(item: dict[str, str]) -> tuple[str, str]:
    """(matching, other) option texts."""
    first, second = item["question"].split("\n (A) ")[1].split("\n (B) ")
    return (first, second) if item["answer_matching_behavior"] == "(A)" else (second, first)


@pytest.mark.parametrize("behavior", BEHAVIORS)
def test_split_files_have_their_counts_and_balance(behavior: str) -> None:
    for split, least in {"train": 300, "selection": 50, "test": 200}.items():
        items = load(behavior, split)
        assert len(items) >= least
        assert len({item["question"] for item in items}) == len(items)
        a_keys = sum(item["answer_matching_behavior"] == "(A)" for item in items) / len(items)
        longer = sum(len(m) > len(o) for m, o in map(options, items)) / len(items)
        assert 0.45 <= a_keys <= 0.55
        assert 0.45 <= longer <= 0.55
        keys = {(item["answer_matching_behavior"], item["answer_not_matching_behavior"]) for item in items}
        assert keys == {("(A)", "(B)"), ("(B)", "(A)")}
    assert len({item["cluster"] for item in load(behavior, "test")}) >= 40
    assert len({item["question"] for item in load(behavior, "open_ended")}) >= 50


@pytest.mark.parametrize("behavior", BEHAVIORS)
def test_test_fillers_and_templates_are_held_out(behavior: str) -> None:
    seen = {name: " ".join(item["question"] for item in load(behavior, name)) for name in ("train", "selection")}
    for split in ("test", "selection"):
        others = [text for name, text in seen.items() if name != split]
        assert not [f for f in fillers(behavior, split) for text in others if f in text]
        for frame in behavior_words(behavior).frames[split]:
            start = frame.split("{x}")[0]
            assert not [text for text in others if start in text], start
    stems = [item["question"].split("\n\n")[0] for name in (*seen, "test") for item in load(behavior, name)]
    assert len(set(stems)) == len(stems)


def test_training_corpus_never_shows_what_is_held_out() -> None:
    rng = random.Random(7)
    texts = " ".join(
        text for _ in range(3000) for row in draw_rows(rng) for text in (row.prompt, *(g.text for g in row.groups))
    )
    held_out = [f for b in BEHAVIORS for split in ("test", "selection") for f in fillers(b, split)]
    held_out += [
        frame.split("{x}")[0] for b in BEHAVIORS for s in ("test", "selection") for frame in behavior_words(b).frames[s]
    ]
    held_out += [f" {ask}" for split in ("test", "selection") for ask in shared_words().asks[split]]
    held_out += [f" {ask}" for ask in shared_words().open_asks["test"]]
    assert not [text for text in held_out if text in texts]
    capability = json.loads(CAPABILITY.read_text(encoding="utf-8"))
    assert not [item["prompt"] for item in capability if item["prompt"] in texts]


def test_shipped_split_files_are_what_the_generator_writes() -> None:
    for behavior in BEHAVIORS:
        for split in corpus.COUNTS:
            assert load(behavior, split) == corpus.split_items(behavior, split, seed=0)
        assert load(behavior, "open_ended") == corpus.open_items(behavior, seed=0)
    assert json.loads(CAPABILITY.read_text(encoding="utf-8")) == capability_items(seed=0)
    assert CAPABILITY.with_name(PASSAGES).read_text(encoding="utf-8") == passages()
    assert corpus.split_items("refusal", "test", seed=1) != load("refusal", "test")


def test_behavior_files_hold_the_system_prompts_of_the_corpus() -> None:
    for behavior in BEHAVIORS:
        texts = yaml.safe_load((CONFIGS / behavior / "behavior.yaml").read_text(encoding="utf-8"))
        words = {kind: wordings[0] for kind, wordings in behavior_words(behavior).system.items()}
        assert texts["system_prompts"] == words | {"neutral": shared_words().neutral_prompts[BEHAVIORS.index(behavior)]}
        lengths = [len(texts["system_prompts"][kind]) for kind in ("positive", "negative", "neutral")]
        assert max(lengths) <= 1.6 * min(lengths)
        assert all(text.startswith("You ") for text in texts["system_prompts"].values())
        assert all(texts[key] for key in ("title", "matching", "rubric"))


def test_capability_split_has_one_right_answer_in_either_place() -> None:
    items = json.loads(CAPABILITY.read_text(encoding="utf-8"))
    assert len(items) >= 100
    assert 0.45 <= sum(item["correct"] == "(A)" for item in items) / len(items) <= 0.55
    for item in items:
        assert f" {item['correct']} {item['correct_full_text']}" in item["prompt"]
        assert f" {item['incorrect']} {item['incorrect_full_text']}" in item["prompt"]
    assert len({item["category"] for item in items}) == 4


def test_facts_of_training_and_test_pair_other_words() -> None:
    rng = random.Random(3)
    pairs = {
        split: {(f.correct, f.incorrect, f.statement) for f in (draw_fact(split, rng) for _ in range(3000))}
        for split in ("train", "test")
    }
    assert not pairs["train"] & pairs["test"]
