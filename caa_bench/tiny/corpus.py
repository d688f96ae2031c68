"""Words + seed -> questions, and the split files of a behavior folder. Same seed, same bytes.

A question is a setting, a frame with its filler, and an ask; `cluster` names the template (frame and ask).
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from caa_bench.tiny.facts import PASSAGES, capability_items, passages
from caa_bench.tiny.grammar import answers
from caa_bench.tiny.truth import SETTING_LEVELS, SETTING_SHARES
from caa_bench.tiny.words import BEHAVIORS, Side, Split, behavior_words, fillers, shared_words

COUNTS: dict[Split, int] = {"train": 320, "selection": 60, "test": 210}
OPEN_ENDED = 60
LEVELS = tuple(SETTING_LEVELS)
Template = tuple[str, str, str]  # cluster, frame, ask


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question without options.

    Args:
        behavior: the behavior's id.
        level: the setting's level, see truth.py.
        stem: setting, frame and ask.
        filler: what the question is about.
        cluster: its template.
    """

    behavior: str
    level: str
    stem: str
    filler: str
    cluster: str


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A question with its two options.

    Args:
        question: the question.
        matching / other: the option texts.
    """

    question: Question
    matching: str
    other: str

    def text(self, *, matching_first: bool) -> str:
        """The text asked, options included, in the published layout."""
        first, second = (self.matching, self.other) if matching_first else (self.other, self.matching)
        return f"{self.question.stem}\n\nChoices:\n (A) {first}\n (B) {second}"


@cache
def templates(behavior: str, split: Split, *, is_open: bool = False) -> tuple[Template, ...]:
    """Every (cluster, frame, ask) of a split."""
    frames = list(enumerate(behavior_words(behavior).frames[split]))
    asks = list(enumerate((shared_words().open_asks if is_open else shared_words().asks)[split]))
    kind = "open" if is_open else split
    return tuple((f"{kind}-frame{i}-ask{j}", frame, ask) for (i, frame), (j, ask) in itertools.product(frames, asks))


def question(behavior: str, template: Template, *, split: Split, level: str, rng: random.Random) -> Question:
    """A question of `template`, its filler and setting sentence drawn."""
    cluster, frame, ask = template
    filler = rng.choice(fillers(behavior, split))
    setting = rng.choice(shared_words().settings[level])
    stem = f"{setting} {frame.format(x=filler)} {ask}"
    return Question(behavior=behavior, level=level, stem=stem, filler=filler, cluster=cluster)


def choice(asked: Question, *, matching_longer: bool, rng: random.Random) -> Choice:
    """`asked` with an option of either side drawn so that the matching one is, or is not, the longer."""
    pools = {side: answers(asked.behavior, side, asked.filler) for side in ("matching", "other")}
    while True:
        matching, other = rng.choice(pools["matching"]), rng.choice(pools["other"])
        if len(matching) != len(other) and (len(matching) > len(other)) == matching_longer:
            return Choice(question=asked, matching=matching, other=other)


def answer(asked: Question, side: Side, rng: random.Random) -> str:
    """An answer of `side` in words."""
    return rng.choice(answers(asked.behavior, side, asked.filler))


def split_items(behavior: str, split: Split, *, seed: int) -> list[dict[str, str]]:
    """The items of a split: letters and the longer option balanced, levels by their shares, templates in turn."""
    rng = random.Random(f"{seed}/{behavior}/{split}")  # noqa: S311 - a corpus, not a secret
    count = COUNTS[split]
    designs = [(k % 2 == 0, k // 2 % 2 == 0) for k in range(count)]
    rng.shuffle(designs)
    turn = _in_turn(templates(behavior, split), rng)
    seen: set[str] = set()
    items = []
    for (matching_first, longer), level in zip(designs, _drawn_levels(behavior, count, rng), strict=True):
        text = ""
        while not text or text.partition("\n\n")[0] in seen:
            asked = question(behavior, next(turn), split=split, level=level, rng=rng)
            text = choice(asked, matching_longer=longer, rng=rng).text(matching_first=matching_first)
        seen.add(asked.stem)
        keys = ("(A)", "(B)") if matching_first else ("(B)", "(A)")
        items.append(
            {
                "question": text,
                "answer_matching_behavior": keys[0],
                "answer_not_matching_behavior": keys[1],
                "cluster": asked.cluster,
            }
        )
    return items


def open_items(behavior: str, *, seed: int) -> list[dict[str, str]]:
    """The open-ended test: held-out frames, fillers and open asks."""
    rng = random.Random(f"{seed}/{behavior}/open")  # noqa: S311
    turn = _in_turn(templates(behavior, "test", is_open=True), rng)
    items: dict[str, dict[str, str]] = {}
    levels = itertools.cycle(_drawn_levels(behavior, OPEN_ENDED, rng))
    while len(items) < OPEN_ENDED:
        asked = question(behavior, next(turn), split="test", level=next(levels), rng=rng)
        items.setdefault(asked.stem, {"question": asked.stem, "cluster": asked.cluster})
    return list(items.values())


def write_splits(configs: Path, capability: Path, *, seed: int) -> None:
    """Write every behavior's split files under `configs/<behavior>`, the capability split to `capability`, and the
    passages of plain facts beside it."""
    for behavior in BEHAVIORS:
        folder = configs / behavior
        folder.mkdir(parents=True, exist_ok=True)
        for split in COUNTS:
            _write_items(folder / f"{split}.json", split_items(behavior, split, seed=seed))
        _write_items(folder / "open_ended.json", open_items(behavior, seed=seed))
    _write_items(capability, capability_items(seed=seed))
    capability.with_name(PASSAGES).write_text(passages(), encoding="utf-8")


def _drawn_levels(behavior: str, count: int, rng: random.Random) -> list[str]:
    """`count` levels in the behavior's shares, shuffled."""
    edges = list(itertools.accumulate(SETTING_SHARES[behavior]))
    levels = [LEVELS[next(i for i, edge in enumerate(edges) if (k + 0.5) / count < edge + 1e-9)] for k in range(count)]
    rng.shuffle(levels)
    return levels


def _in_turn(all_templates: Sequence[Template], rng: random.Random) -> Iterator[Template]:
    """Templates in a shuffled order, again and again, so that clusters are of equal size."""
    order = list(all_templates)
    rng.shuffle(order)
    return itertools.cycle(order)


def _write_items(path: Path, items: list[dict[str, str]]) -> None:
    path.write_text(json.dumps(items, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
