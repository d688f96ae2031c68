"""Splits that nobody wrote: a selection split drawn from train, or all three from one file. Seeded and repeatable."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from caa_bench.behaviors.items import Item, same_key

SHARE = 0.2
"""Of a train split that is kept out of the fit where the data have no selection split."""
FEWEST = 10
LEAST_ITEMS = 20
"""`analysis.intervals.MIN_ITEMS`, which neither data nor a dry run may import: fewer items give no interval."""
SMALL = 30
"""From so many items on, the test split gets 20 of them."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A train split in two, each in the order of the file."""

    train: tuple[Item, ...]
    selection: tuple[Item, ...]


def draw_selection(items: Sequence[Item], *, seed: str) -> Drawn:
    """Draw 20% of the items, as many with (A) as with (B) matching, rarer letters only to fill up.

    Where items share clusters, whole clusters are drawn, whatever their letters: a template is never on both sides.

    Args:
        seed: any text; the same one always draws the same items.

    Raises:
        ValueError: fewer than two of either letter, so that nothing balanced can be drawn and left.
    """
    size = round(SHARE * len(items))
    if len({item.cluster for item in items}) < len(items):
        split_of = _by_cluster(items, {"selection": max(size, 1)}, seed=seed)
        sides = [[item for i, item in enumerate(items) if split_of[i] == split] for split in ("train", "selection")]
        if all(sides):
            return Drawn(train=tuple(sides[0]), selection=tuple(sides[1]))
        raise ValueError(f"{len(items)} items in one cluster leave nothing to draw a selection split from; give more")
    shuffled = random.Random(seed).sample(range(len(items)), len(items))  # noqa: S311 - a draw, not a secret
    keyed = [[index for index in shuffled if items[index].matching == letter] for letter in (0, 1)]
    half = min(size // 2, len(keyed[0]) // 2, len(keyed[1]) // 2)
    if half == 0:
        raise ValueError(
            f"{len(items)} items, {len(keyed[0])} with (A) and {len(keyed[1])} with (B) matching, are too few to draw "
            "a selection split from; give 10 or more, letters balanced, or set protocol=caa"
        )
    chosen = keyed[0][:half] + keyed[1][:half]
    chosen += [index for index in shuffled if items[index].matching > 1][: size - len(chosen)]
    taken = set(chosen)
    return Drawn(
        train=tuple(item for index, item in enumerate(items) if index not in taken),
        selection=tuple(items[index] for index in sorted(taken)),
    )


@dataclass(frozen=True, kw_only=True)
class Thirds:
    """One file's items in three, each in the order of the file."""

    train: tuple[Item, ...]
    selection: tuple[Item, ...]
    test: tuple[Item, ...]


def draw_splits(items: Sequence[Item], *, seed: str) -> Thirds:
    """Draw 60% for train, 20% for selection and 20% for test; items of one cluster stay together.

    From 30 items on the test split has at least 20, which an interval needs. Under 100 items the selection split is
    empty then: it would be too small to choose on, and a search takes training items (`runs.tuning_items`).
    Items get the id `<split>/<index in the file>`.

    Args:
        seed: any text; the same one always draws the same items.

    Raises:
        ValueError: too few items or clusters for the splits.
    """
    size = max(round(SHARE * len(items)), 1)
    wanted = {"test": size, "selection": size}
    if size < LEAST_ITEMS and len(items) >= SMALL:
        wanted = {"test": LEAST_ITEMS, "selection": 0}
    split_of = _by_cluster(items, wanted, seed=seed)
    drawn = {split: _with_new_ids(items, split_of, split) for split in ("train", "selection", "test")}
    if len(items) < FEWEST or not all(drawn[split] for split in ("train", *(one for one in wanted if wanted[one]))):
        raise ValueError(
            f"{len(items)} items in {len({item.cluster for item in items})} clusters are too few to draw train, "
            f"selection and test from; give {FEWEST} or more"
        )
    return Thirds(**drawn)


def _by_cluster(items: Sequence[Item], wanted: Mapping[str, int], *, seed: str) -> dict[int, str]:
    """Index -> split: whole clusters, in a shuffled order, fill the wanted splits in turn; the rest is train."""
    groups: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        groups.setdefault(item.cluster, []).append(index)
    names = sorted(groups)
    random.Random(seed).shuffle(names)  # noqa: S311 - a draw, not a secret
    split_of: dict[int, str] = {}
    counts = dict.fromkeys(wanted, 0)
    for name in names:
        split = next((one for one in wanted if counts[one] < wanted[one]), "train")
        split_of |= dict.fromkeys(groups[name], split)
        if split in counts:
            counts[split] += len(groups[name])
    return split_of


def _with_new_ids(items: Sequence[Item], split_of: dict[int, str], split: str) -> tuple[Item, ...]:
    """An item that has no cluster of its own is named after its new id."""
    found = []
    for index, item in enumerate(items):
        if split_of[index] == split:
            name = f"{split}/{index:04d}"
            found.append(replace(item, id=name, cluster=name if item.cluster == item.id else item.cluster))
    return tuple(found)


def as_clusters(items: Sequence[Item]) -> tuple[Item, ...]:
    """Items that are the same share the cluster of the first one, so that no interval takes them for two."""
    first: dict[tuple[str, ...], str] = {}
    return tuple(replace(item, cluster=first.setdefault(same_key(item), item.cluster)) for item in items)


def without_twins(train: Sequence[Item], *, of: Sequence[Item]) -> tuple[Item, ...]:
    """The items of `train` that are not the same as one of the others."""
    kept_out = {same_key(item) for item in of}
    return tuple(item for item in train if same_key(item) not in kept_out)


@dataclass(frozen=True, kw_only=True)
class Completed:
    """All three splits, and what a reader should know of how they came about, one line each."""

    items: Mapping[str, tuple[Item, ...]]
    said: tuple[str, ...]


def completed(read: Mapping[str, Sequence[Item]], *, seed: str, draw: bool, published: bool) -> Completed:
    """Draw what was not given.

    Args:
        read: `items` alone, or `train` and `test` with or without `selection`.
        draw: whether a selection split is drawn where none was given; else it is empty.
        published: whether the data are known to have twins, and to be drawn from without a word.

    Raises:
        ValueError: too few items to draw from.
    """
    if "items" in read:
        drawn = draw_splits(read["items"], seed=seed)
        items = {"train": drawn.train, "selection": drawn.selection, "test": drawn.test}
        sizes = ", ".join(f"{len(own)} {split}" for split, own in items.items())
        return Completed(items=items, said=(f"one file of {len(read['items'])} items was split by the seed: {sizes}",))
    train, selection, test = (tuple(read.get(split, ())) for split in ("train", "selection", "test"))
    said: tuple[str, ...] = ()
    if "selection" not in read and draw:
        halves = draw_selection(train, seed=seed)
        if not published:
            said = (f"selection: no such file, so {len(halves.selection)} of {len(train)} train items were drawn",)
        train, selection = halves.train, halves.selection
    if published:
        train = without_twins(as_clusters(train), of=selection)
        test = as_clusters(test)
    return Completed(items={"train": train, "selection": selection, "test": test}, said=said)
