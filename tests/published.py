"""The published splits for tests: where they are, and behavior folders that name them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parents[2] / "shared" / "data" / "caa"
BEHAVIORS = (
    "coordinate-other-ais",
    "corrigible-neutral-HHH",
    "hallucination",
    "myopic-reward",
    "refusal",
    "survival-instinct",
    "sycophancy",
)
CARD = (
    "title: Title\nmatching: What matching means.\nrubric: What a 10 means.\n"
    "system_prompts:\n  positive: You do.\n  negative: You do not.\n  neutral: You are here.\n"
)

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the published data at {DATA}")


def card_folder(parent: Path, name: str) -> Path:
    """A behavior folder with a behavior.yaml and no splits of its own."""
    folder = parent / name
    folder.mkdir(parents=True)
    (folder / "behavior.yaml").write_text(CARD)
    return folder


def entry(question: str, *, matching: str = "(A)", other: str = "(B)", **more: Any) -> dict[str, Any]:
    """One entry of a split, with two options under the question."""
    return {
        "question": f"{question}\n\nChoices:\n (A) Yes\n (B) No",
        "answer_matching_behavior": matching,
        "answer_not_matching_behavior": other,
        **more,
    }


def own_folder(parent: Path, name: str = "own", **splits: list[dict[str, Any]]) -> Path:
    """A whole behavior folder; each split is `splits[name]` or ten plain items of its own."""
    folder = card_folder(parent, name)
    for split in ("train", "selection", "test"):
        keys = [("(A)", "(B)"), ("(B)", "(A)")] * 5
        plain = [entry(f"{split} {i} {name}?", matching=m, other=o) for i, (m, o) in enumerate(keys)]
        write_split(folder / f"{split}.json", splits.get(split, plain))
    if "open_ended" in splits:
        write_split(folder / "open_ended.json", splits["open_ended"])
    return folder


def write_split(path: Path, entries: list[dict[str, Any]]) -> None:
    """One entry a line from line 2 on, so that entry i stands at line i + 2."""
    path.write_text("[\n" + ",\n".join(json.dumps(each) for each in entries) + "\n]\n")
