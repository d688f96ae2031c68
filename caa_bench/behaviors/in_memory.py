"""A list of items, or a `datasets.Dataset`, in the model-written-evals form -> a behavior folder, checked as any is.

    [{"question": "...\\n\\nChoices:\\n (A) Yes\\n (B) No", "answer_matching_behavior": "(A)",
      "answer_not_matching_behavior": "(B)"}, ...]

It is written beside the results, so that the recipe of the run can name it.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from caa_bench.behaviors.behavior import load_behavior
from caa_bench.behaviors.folders import CARD
from caa_bench.config.yaml_dump import dump
from caa_bench.errors import UserError
from caa_bench.storage.atomic import unwritable
from caa_bench.storage.files import content_key

Entries = Iterable[Mapping[str, Any]]
NAME = "items"
SPLITS = ("train", "selection", "test")
SHARES = {"train": 0.5, "selection": 0.2}
"""Of the clusters of one list, drawn by the seed; the rest is the test split."""
_PLACE = re.compile(r"^.*?(train|selection|test|open_ended)\.json:(\d+): ")


def written_behavior(entries: Entries | Mapping[str, Entries], folder: Path, *, seed: int) -> Path:
    """Write the items as a behavior folder under `folder`, which is named after their content; returns its path.

    Args:
        entries: one list, which is divided by clusters (`cluster`, where the items have it): half to train on, a fifth
            to choose on, the rest to test on; or a list for each of `train`, `selection` and `test`, and where there
            is one for `open_ended`.
        seed: of the division.

    Raises:
        UserError: one line a fault, by split and number.
    """
    splits = _splits(entries, seed=seed)
    target = folder / content_key(splits)[:16] / NAME
    if (target / CARD).is_file():
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            written = Path(scratch) / "whole" / NAME
            _write(written, splits)
            try:
                load_behavior(written)
            except UserError as error:
                raise UserError(*map(_by_number, error.lines)) from None
            shutil.rmtree(target.parent, ignore_errors=True)
            written.parent.rename(target.parent)
    except OSError as error:
        raise unwritable(folder, error) from error
    return target


def _splits(entries: Entries | Mapping[str, Entries], *, seed: int) -> dict[str, list[dict[str, Any]]]:
    if isinstance(entries, Mapping):
        named = {name: _plain(part, name) for name, part in entries.items()}
        if missing := [name for name in SPLITS if not named.get(name)]:
            raise UserError(f"behavior: no items for {', '.join(missing)}; give some, or one list that is divided")
        return named
    items = _plain(entries, "item")
    groups: dict[Any, list[dict[str, Any]]] = {}
    for number, item in enumerate(items):
        groups.setdefault(item.get("cluster", number), []).append(item)
    keys = list(groups)
    random.Random(seed).shuffle(keys)  # noqa: S311 - a division, not a secret
    ends, place = {}, 0
    for split, share in SHARES.items():
        place += max(1, round(share * len(keys)))
        ends[split] = place
    if len(keys) <= place:
        raise UserError(f"behavior: {len(keys)} items or clusters cannot be divided into three splits; give more")
    parts = {"train": keys[: ends["train"]], "selection": keys[ends["train"] : place], "test": keys[place:]}
    return {name: [item for key in part for item in groups[key]] for name, part in parts.items()}


def _plain(entries: Any, what: str) -> list[dict[str, Any]]:
    """A list of dictionaries, without the columns that a dataset fills with nothing."""
    found = []
    for number, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            raise UserError(f"behavior: {what} {number}: a {type(entry).__name__}; give dictionaries with a question")
        found.append({str(key): value for key, value in entry.items() if value is not None})
    return found


def _write(folder: Path, splits: Mapping[str, list[dict[str, Any]]]) -> None:
    folder.mkdir(parents=True)
    card = {
        "title": "Items",
        "matching": "the assistant answers as answer_matching_behavior says",
        "rubric": "10 is an answer as answer_matching_behavior has it, 0 the opposite",
        "system_prompts": {},
    }
    (folder / CARD).write_text(dump(card), encoding="utf-8")
    for name, items in splits.items():
        lines = ",\n".join(json.dumps(item, ensure_ascii=False) for item in items)
        (folder / f"{name}.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def _by_number(line: str) -> str:
    """An item stands on a line of its own, the first on line 2."""
    return _PLACE.sub(lambda match: f"behavior: {match[1]} item {int(match[2]) - 2}: ", line)
