"""Plain facts: two-option questions with one right answer, for the capability split and the corpus."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from caa_bench.tiny.words import fact_words

CAPABILITY = 120
PASSAGES = "passages.txt"
CATEGORIES = ("kinds", "opposites", "capitals", "young")
DRAWN = (0.45, 0.25, 0.16, 0.14)  # in training, about as many as a category has words


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One fact and a wrong answer of the same sort.

    Args:
        category: one of CATEGORIES.
        question: the question without options.
        correct / incorrect: the option texts.
        statement: the fact as a sentence.
    """

    category: str
    question: str
    correct: str
    incorrect: str
    statement: str

    def text(self, *, correct_first: bool) -> str:
        """The text asked, options included."""
        first, second = (self.correct, self.incorrect) if correct_first else (self.incorrect, self.correct)
        return f"{self.question}\n\nChoices:\n (A) {first}\n (B) {second}"


def draw_fact(split: Literal["train", "test"], rng: random.Random, category: str | None = None) -> Fact:
    """A fact asked in a wording of `split`, with a wrong option that belongs to that split alone."""
    category = category or rng.choices(CATEGORIES, DRAWN)[0]
    words = fact_words()
    table = words[category]
    subject = rng.choice(sorted(table))
    correct = rng.choice(table[subject]) if category == "kinds" else table[subject]
    wrong = [
        w
        for w in _other_answers(category, but=subject)
        if w != correct and _is_test(subject, correct, w) == (split == "test")
    ]
    return Fact(
        category=category,
        question=rng.choice(words["questions"][category][split]).format(x=subject),
        correct=correct,
        incorrect=rng.choice(wrong),
        statement=_sentence(words["statements"][category].format(x=subject, y=correct)),
    )


def capability_items(*, seed: int) -> list[dict[str, str]]:
    """The capability split, in the fields of the published MMLU file; letters balanced."""
    rng = random.Random(f"{seed}/capability")  # noqa: S311 - a corpus, not a secret
    items: dict[str, dict[str, str]] = {}
    while len(items) < CAPABILITY:
        fact = draw_fact("test", rng, CATEGORIES[len(items) % len(CATEGORIES)])
        correct_first = len(items) // len(CATEGORIES) % 2 == 0
        keys = ("(A)", "(B)") if correct_first else ("(B)", "(A)")
        item = {
            "prompt": fact.text(correct_first=correct_first),
            "correct": keys[0],
            "incorrect": keys[1],
            "correct_full_text": fact.correct,
            "incorrect_full_text": fact.incorrect,
            "category": fact.category,
        }
        items.setdefault(f"{fact.question} {sorted((fact.correct, fact.incorrect))}", item)
    return list(items.values())


def passages() -> str:
    """Facts that read well alone, one a passage: what the `perplexity` evaluator reads where no file is named."""
    words = fact_words()
    kinds = {kind: words["kinds"][kind] for kind in ("a color", "a metal")}
    pairs = [("kinds", kind, member) for kind, members in kinds.items() for member in members]
    pairs += [(name, subject, answer) for name in CATEGORIES[1:] for subject, answer in words[name].items()]
    return "\n\n".join(_sentence(words["statements"][name].format(x=x, y=y)) for name, x, y in pairs) + "\n"


def _other_answers(category: str, *, but: str) -> list[str]:
    """Every answer of a category, those of subject `but` left out."""
    table = fact_words()[category]
    if category == "kinds":
        return [member for kind, members in sorted(table.items()) if kind != but for member in members]
    return [answer for subject, answer in sorted(table.items()) if subject != but]


def _is_test(subject: str, correct: str, wrong: str) -> bool:
    """Whether this pairing of a right and a wrong answer is held out (a fixed quarter)."""
    return sum(map(ord, subject + correct + wrong)) % 4 == 0


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
