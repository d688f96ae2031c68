"""What an edit of a behavior's items changed: two behaviors -> how many are new, gone, other, or in another split.

An item is known by its question; one whose answers or cluster differ has changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from caa_bench.behaviors.behavior import Behavior
from caa_bench.behaviors.items import Item

SPLITS = ("train", "selection", "test")


@dataclass(frozen=True, kw_only=True)
class Changed:
    """Numbers of items.

    Args:
        added / removed: whose question is there on one side alone.
        changed: with the same question and other answers, or another cluster.
        moved: the same in another split.
        same: the same in the same split.
    """

    added: int
    removed: int
    changed: int
    moved: int
    same: int

    @property
    def nothing(self) -> bool:
        """Whether every item is as it was."""
        return not (self.added or self.removed or self.changed or self.moved)

    def line(self) -> str:
        """For a reader."""
        return (
            f"{self.added} items added, {self.removed} removed, {self.changed} changed, {self.same + self.moved} as "
            f"they were, {self.moved} of these in another split"
        )


def changed_items(old: Behavior, new: Behavior) -> Changed:
    """What stands in `new` that does not in `old`, and the other way round."""
    before, after = dict(_placed(old)), dict(_placed(new))
    gone, come = before.keys() - after.keys(), after.keys() - before.keys()
    questions = [Counter(question for question, *_ in keys) for keys in (gone, come)]
    changed = sum((questions[0] & questions[1]).values())
    stayed = before.keys() & after.keys()
    moved = sum(before[key] != after[key] for key in stayed)
    return Changed(
        added=len(come) - changed,
        removed=len(gone) - changed,
        changed=changed,
        moved=moved,
        same=len(stayed) - moved,
    )


def _placed(behavior: Behavior) -> Iterator[tuple[tuple[str, ...], str]]:
    """Each item's texts, in whatever order its options stand, and its split."""
    for split in SPLITS:
        for item in getattr(behavior, split):
            yield _texts_of_item(item), split


def _texts_of_item(item: Item) -> tuple[str, ...]:
    question = item.head.strip().removesuffix("Choices:").strip()
    others = sorted(text for place, text in enumerate(item.options) if place != item.matching)
    return (question, "" if item.cluster == item.id else item.cluster, item.options[item.matching], *others)
