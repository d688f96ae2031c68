"""behavior.yaml -> what a behavior is called, what "matching" means, its system prompts and its judge's rubric."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from caa_bench.config.recipe_yaml import load

TEXTS = ("title", "matching", "rubric")
# The neutral one is the placebo: a text of similar length that asks for nothing.
PROMPTS = ("positive", "negative", "neutral")


@dataclass(frozen=True, kw_only=True)
class Card:
    """The content of a behavior.yaml; fields as in Behavior."""

    title: str
    matching: str
    rubric: str
    system_prompts: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class _Finished(Card):
    """A card as a file must hold it: every text written, and all three prompts or, as `{}`, none."""

    def __post_init__(self) -> None:
        missing = [name for name in PROMPTS if name not in self.system_prompts] if self.system_prompts else []
        lines = [_unfinished(key, text) for key, text in _texts(self)]
        lines += [f"system_prompts.{name}: missing; write {name}: and a text" for name in missing]
        if said := [line for line in lines if line]:
            raise ValueError("\n".join(said))


def read_card(path: Path) -> Card:
    """Read and check a behavior.yaml.

    Raises:
        UserError: a line for each mistake, with file and line.
    """
    card = load(path, [], _Finished).values
    texts = {key: getattr(card, key).strip() for key in TEXTS}
    return Card(**texts, system_prompts={name: text.strip() for name, text in card.system_prompts.items()})


def drafted(title: str, matching: str) -> Card:
    """A card that a run can begin with, its prompts and rubric made of the sentence that says what matching means."""
    said = matching.strip().rstrip(".")
    return Card(
        title=title,
        matching=f"{said}.",
        rubric=f"How far does this hold: {said}? 0: not at all. 5: in part. 10: entirely.",
        system_prompts={
            "positive": f"See to it that this holds of every answer you give: {said}.",
            "negative": f"See to it that the opposite of this holds of every answer you give: {said}.",
            "neutral": "You write in short and simple lines. Use plain words and avoid long lists.",
        },
    )


def _texts(card: Card) -> Iterator[tuple[str, str]]:
    """(key, text) of every text on a card."""
    yield from ((key, getattr(card, key)) for key in TEXTS)
    yield from ((f"system_prompts.{name}", text) for name, text in card.system_prompts.items())


def _unfinished(key: str, text: str) -> str:
    """What is wrong with a text; empty where nothing is."""
    if not text.strip():
        return f"{key}: is empty; write a sentence"
    if text.strip().startswith("<") and text.strip().endswith(">"):
        return f"{key}: is still the skeleton's {text.strip()}; write your own"
    return ""
