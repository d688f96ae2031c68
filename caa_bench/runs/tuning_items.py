"""Which items a search looks at: the selection split, and training items beside it where that is small.

The test split is never looked at, whatever the others lack.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from caa_bench.behaviors.drawing import LEAST_ITEMS

if TYPE_CHECKING:
    from caa_bench.behaviors.behavior import Behavior

FEWEST = 10
"""With fewer, one item decides: nothing is searched for."""
MOST = 50
"""As many are enough where training items are taken too."""


@dataclass(frozen=True, kw_only=True)
class SearchItems:
    """What a search is made on.

    Args:
        behavior: with these items as its selection split.
        selection: how many of them are of the selection split.
        unseen: how many are training items that no vector is fitted on (`max_pairs` left them out).
        fitted: how many are training items that vectors are fitted on.
    """

    behavior: Behavior
    selection: int
    unseen: int = 0
    fitted: int = 0

    @property
    def train(self) -> int:
        """How many are training items."""
        return self.unseen + self.fitted

    def __len__(self) -> int:
        return self.selection + self.train

    def facts(self) -> dict[str, int]:
        """For the record of the search, as JSON."""
        return {"of_selection": self.selection, "of_train": self.train, "of_fitted": self.fitted}


def search_items(behavior: Behavior, *, limit: int | None) -> SearchItems:
    """The selection split's first `limit` items; where they are fewer than 20, training items are added up to 50.

    Those that no vector is fitted on come first. On the others a vector does more than it will on new items; that is
    alike for all layers and doses, so that a choice among them can still be made.
    """
    own = behavior.selection[:limit]
    room = min(limit or MOST, MOST) - len(own)
    if len(own) >= LEAST_ITEMS or room <= 0:
        return SearchItems(behavior=behavior, selection=len(own))
    learned = {pair.item for pair in behavior.pairs()}
    unseen = tuple(item for item in behavior.train if item.id not in learned)[:room]
    fitted = tuple(item for item in behavior.train if item.id in learned)[: room - len(unseen)]
    topped = replace(behavior, selection=(*own, *unseen, *fitted))
    return SearchItems(behavior=topped, selection=len(own), unseen=len(unseen), fitted=len(fitted))


def tuned_on(record: Mapping[str, Any]) -> str:
    """What a search chose on, in a few words; training items stand in where the selection split has too few."""
    if not record.get("of_train", 0):
        return "the selection split"
    return "selection and training items" if record["of_selection"] else "training items"


def items_line(record: Mapping[str, Any]) -> str:
    """How many items were looked at, and of which splits.

    Args:
        record: of a search (`tuning_record.record_of`), with `SearchItems.facts`.
    """
    train, fitted = record.get("of_train", 0), record.get("of_fitted", 0)
    if not train:
        return f"Tuned on {record['items']} items of the selection split in both option orders"
    seen = f"; vectors were fitted on {fitted} of those, where effects are larger than on new items" if fitted else ""
    return (
        f"Tuned on {record['items']} items in both option orders, {record['of_selection']} of the selection split and, "
        f"as {LEAST_ITEMS} are needed, {train} of the training split{seen}"
    )
