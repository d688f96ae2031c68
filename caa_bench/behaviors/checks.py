"""What only shows when splits are laid side by side: the same question twice is refused, the rest is warned of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from caa_bench.behaviors.items import Item, longer_matching, same_key
from caa_bench.behaviors.json_entries import Faults, Located

# docs/numbers.md, "Warnings": train keys outside 45-55% A, one side longer in over 65% of the items.
KEY_SHARE = (0.45, 0.55)
LONGER_SHARE = 0.65
# Shared words of two stems over all their words; the published splits have a handful of pairs above it.
ALIKE = 0.8


@dataclass(frozen=True, kw_only=True)
class Split:
    """A split as it was read: its file and its items with their lines."""

    path: Path
    read: Sequence[Located[Item]]

    @property
    def items(self) -> tuple[Item, ...]:
        """The items without the lines they were read from."""
        return tuple(entry.value for entry in self.read)


def refuse_shared_questions(splits: Mapping[str, Split], faults: Faults) -> None:
    """An item in two splits, up to case, spaces and the order of its options, is a fault of the later one."""
    for (name, earlier), (_, later) in combinations(splits.items(), 2):
        if earlier.path == later.path:
            continue
        known = {same_key(entry.value): entry for entry in earlier.read}
        for entry in later.read:
            twin = known.get(same_key(entry.value))
            if twin is not None:
                same = twin.value.question.strip() == entry.value.question.strip()
                what = "the same question" if same else "the same item, up to case, spaces and the order of options,"
                text = f"{what} stands in {name} ({earlier.path}:{twin.line}); delete one of the two"
                faults.add(later.path, entry.line, text)


def split_warnings(splits: Mapping[str, Sequence[Item]]) -> tuple[str, ...]:
    """Lines for the report, one a finding; `splits` in the order train, selection, test. Empty splits are left out."""
    found = [_key_warning(splits["train"])]
    for name, items in splits.items():
        found += [_length_warning(name, items), _order_warning(name, items), _twin_warning(name, items)]
    for (name, earlier), (later_name, later) in combinations(splits.items(), 2):
        found.append(_stem_warning(later_name, later, among=earlier, among_name=name))
    return tuple(line for line in found if line)


def _key_warning(train: Sequence[Item]) -> str:
    share = sum(item.matching == 0 for item in train) / len(train)
    if KEY_SHARE[0] <= share <= KEY_SHARE[1]:
        return ""
    return (
        f"train: (A) is the matching answer of {share:.0%} of {len(train)} items, not of 45-55%: where pairs are asked "
        "in the given order alone (protocol=caa), letters may be learned"
    )


def _length_warning(name: str, items: Sequence[Item]) -> str:
    longer = sum(map(longer_matching, items))
    shorter = sum(len(item.options[item.matching]) < len(item.options[item.other]) for item in items)
    if max(longer, shorter) <= LONGER_SHARE * len(items):
        return ""
    return f"{name}: of {len(items)} items the matching option is longer in {longer}, shorter in {shorter}"


def _order_warning(name: str, items: Sequence[Item]) -> str:
    fixed = sum(not item.swappable for item in items)
    return (
        f"{name}: {fixed} of {len(items)} items name letters in their options and keep the given order" if fixed else ""
    )


def _twin_warning(name: str, items: Sequence[Item]) -> str:
    """Published data have a few; in a user's own they are refused."""
    twice = len(items) - len({same_key(item) for item in items})
    return (
        f"{name}: {twice} of {len(items)} items stand there twice, up to case, spaces and the order of options; each "
        "counts as one cluster with its twin"
        if twice
        else ""
    )


def _stem_warning(name: str, items: Sequence[Item], *, among: Sequence[Item], among_name: str) -> str:
    """Stems as sets of words, held as the bits of an integer: a thousand by a thousand within a second."""
    bits: dict[str, int] = {}
    stems = [[_counted_words(item.head, bits) for item in side] for side in (items, among)]
    closest = (
        [max((_alikeness(stem, other), i) for i, other in enumerate(stems[1])) for stem in stems[0]] if among else []
    )
    hits = [(alike, item, among[i]) for (alike, i), item in zip(closest, items, strict=False) if alike >= ALIKE]
    if not hits:
        return ""
    _, first, second = max(hits, key=lambda hit: hit[0])
    return (
        f"{name}: {len(hits)} of {len(items)} questions have nearly the stem of one in {among_name} "
        f"(most alike: {first.id} and {second.id})"
    )


def near_duplicates(items: Sequence[Item]) -> list[tuple[float, Item, Item]]:
    """Pairs of items that share at least `ALIKE` of the words of their question and options, the most alike first."""
    bits: dict[str, int] = {}
    words = [_counted_words(f"{item.head} {' '.join(item.options)}", bits) for item in items]
    found = []
    for i, own in enumerate(words):
        for j in range(i):
            alike = _alikeness(own, words[j])
            if alike >= ALIKE:
                found.append((alike, items[j], items[i]))
    return sorted(found, key=lambda hit: (-hit[0], hit[1].id, hit[2].id))


def _counted_words(text: str, bits: dict[str, int]) -> int:
    return sum(1 << bits.setdefault(word, len(bits)) for word in set(re.findall(r"\w+", text.lower())))


def _alikeness(a: int, b: int) -> float:
    return (a & b).bit_count() / ((a | b).bit_count() or 1)
