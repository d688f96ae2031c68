"""The words of the embedded model's corpus: YAML files beside this one -> frozen tables.

Everything a reader might want to reword is in `words/*.yaml`; nothing here or in the generators is text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

Side = Literal["matching", "other"]
Split = Literal["train", "selection", "test"]

FOLDER = Path(__file__).parent / "words"
# The order is part of the seed: it numbers the planted directions and the splits.
BEHAVIORS = (
    "refusal",
    "sycophancy",
    "survival-instinct",
    "coordinate-other-ais",
    "corrigible-neutral-HHH",
    "hallucination",
    "myopic-reward",
)


@dataclass(frozen=True, kw_only=True)
class BehaviorWords:
    """One behavior's words.

    Args:
        id: the behavior's id.
        first / second: a filler is "first second"; which pairs belong to which split, `fillers` says.
        frames: sentences with `{x}` where the filler goes, by split.
        heads / tails: an answer is a head, or a head and a tail, of one side; heads may hold `{x}`.
        system: texts by prompt kind (`positive`, `negative`, ...); the first is the one in `behavior.yaml`.
    """

    id: str
    first: tuple[str, ...]
    second: tuple[str, ...]
    frames: Mapping[Split, tuple[str, ...]]
    heads: Mapping[Side, tuple[str, ...]]
    tails: Mapping[Side, tuple[str, ...]]
    system: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class SharedWords:
    """Words that every behavior shares.

    Args:
        settings: setting sentences by level; each level shifts the base log-odds (truth.py).
        asks: closing questions of multiple-choice items, by split.
        open_asks: closing questions of open-ended items; `selection` does not exist.
        neutral_prompts: system prompts about something else; behavior number i ships the i-th.
        small_talk: (user, assistant) turns that may come before a question.
        copy_request: asks to say `{x}` again.
    """

    settings: Mapping[str, tuple[str, ...]]
    asks: Mapping[Split, tuple[str, ...]]
    open_asks: Mapping[Split, tuple[str, ...]]
    neutral_prompts: tuple[str, ...]
    small_talk: tuple[tuple[str, str], ...]
    copy_request: str


@cache
def behavior_words(behavior: str) -> BehaviorWords:
    """The words of `behavior`; raises KeyError with the known ids."""
    if behavior not in BEHAVIORS:
        raise KeyError(f"{behavior}: not one of {', '.join(BEHAVIORS)}")
    return BehaviorWords(id=behavior, **_frozen(_read(behavior)))


@cache
def fillers(behavior: str, split: Split) -> tuple[str, ...]:
    """The fillers of a split: every word occurs in training, every held-out combination only in its own split."""
    words = behavior_words(behavior)
    residues = {"test": (0,), "selection": (1,), "train": (2, 3, 4)}[split]
    return tuple(
        f"{a} {b}" for i, a in enumerate(words.first) for j, b in enumerate(words.second) if (i + j) % 5 in residues
    )


@cache
def shared_words() -> SharedWords:
    """The words that every behavior shares."""
    return SharedWords(**_frozen(_read("shared")))


@cache
def fact_words() -> Mapping[str, Any]:
    """`facts.yaml` as it stands."""
    return _read("facts")


def _read(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))


def _frozen(value: Any) -> Any:
    """Lists become tuples, all the way down."""
    if isinstance(value, list):
        return tuple(_frozen(entry) for entry in value)
    if isinstance(value, dict):
        return {key: _frozen(entry) for key, entry in value.items()}
    return value
