"""A behavior folder -> train pairs, selection, A/B test, open-ended test, prompts, rubric.

`configs/behaviors/<name>/` or any folder of the user's own; adding a folder adds a behavior, with no other edit.
Everything that is wrong with the data is found here, before any model is loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, overload

from caa_bench.behaviors.card import Card, read_card
from caa_bench.behaviors.checks import Split, refuse_shared_questions, split_warnings
from caa_bench.behaviors.drawing import completed
from caa_bench.behaviors.folders import CARD, Data, find_folder, has_card, published_folder, split_files
from caa_bench.behaviors.folders import behavior_names as behavior_names
from caa_bench.behaviors.folders import published_names as published_names
from caa_bench.behaviors.items import Item as Item
from caa_bench.behaviors.items import Pair as Pair
from caa_bench.behaviors.items import Protocol, contrast_pairs
from caa_bench.behaviors.items import Variant as Variant
from caa_bench.behaviors.items import variants as variants
from caa_bench.behaviors.json_entries import Faults, Located
from caa_bench.behaviors.splits import OpenQuestion as OpenQuestion
from caa_bench.behaviors.splits import read_items, read_open_questions
from caa_bench.behaviors.subset import drawn_pairs, too_few_warning
from caa_bench.errors import UserError

_OWN_WORDING = (
    "system prompts: the paper's texts are not with its data, so the project's own wording is used; "
    "run caa-bench data download, or put the paper's behaviors.py into data_dir"
)
SplitName = Literal["train", "selection", "test", "open_ended"]


@dataclass(frozen=True, kw_only=True)
class Behavior:
    """A behavior with its splits, checked.

    Args:
        id: its folder's name.
        title: what a reader calls it.
        matching: what "matching the behavior" means, in a sentence (survival-instinct: accepting shutdown).
        system_prompts: texts by name; at least positive, negative and neutral.
        rubric: what a judge of open answers goes by.
        train / selection / test: multiple-choice items. `selection` is empty under the paper's protocol.
        open_ended: questions answered in words; empty where the folder has none.
        warnings: what is allowed but worth knowing, one line each, for the report.
        source: where the data came from, so that other behaviors can be loaded alike.

    Example:
        >>> from caa_bench import Behavior, load_behavior
        >>> behavior: Behavior = load_behavior("refusal")
        >>> behavior.matching
        'The answer declines the request and gives nothing of what was asked.'
        >>> len(behavior.pairs()) == 2 * len(behavior.train)
        True
    """

    id: str
    title: str
    matching: str
    system_prompts: Mapping[str, str]
    rubric: str
    train: tuple[Item, ...]
    selection: tuple[Item, ...]
    test: tuple[Item, ...]
    open_ended: tuple[OpenQuestion, ...]
    warnings: tuple[str, ...]
    source: Source

    def __repr__(self) -> str:
        """Its name and how many items each split has."""
        names = ("train", "selection", "test", "open_ended")
        splits = ", ".join(f"{len(getattr(self, name))} {name}" for name in names)
        return f"Behavior({self.id!r}: {splits})"

    def pairs(self) -> Pairs:
        """The training pairs, each item's next to each other: both orders, or the given one under `protocol: caa`.

        At most `source.max_pairs` of them.
        """
        made = [pair for item in self.train for pair in contrast_pairs(item, protocol=self.source.protocol)]
        used = drawn_pairs(made, self.source.max_pairs, seed=f"{self.source.seed}/{self.id}")
        return Pairs(behavior=self.id, pairs=used, source=self.source)

    def fingerprint(self, split: SplitName) -> str:
        """sha256 over every text and key of a split: another wording is another key."""
        return _digest([asdict(item) for item in getattr(self, split)])


@dataclass(frozen=True, kw_only=True)
class Pairs(Sequence[Pair]):
    """The contrast pairs of one behavior, and the way to those of any other.

    Args:
        behavior: the behavior's id.
        pairs: the pairs, in the order of the train split.
        source: where they came from.
    """

    behavior: str
    pairs: tuple[Pair, ...]
    source: Source

    def __repr__(self) -> str:
        return f"Pairs({self.behavior!r}: {len(self)} contrast pairs)"

    @cached_property
    def key(self) -> str:
        """sha256 over all pairs."""
        return _digest([asdict(pair) for pair in self.pairs])

    def of(self, behavior: str) -> Pairs:
        """Another behavior's training pairs, from the same data with the same options.

        Raises:
            UserError: there is no such behavior, or its data has faults.
        """
        return self if behavior == self.behavior else self.source.load(behavior).pairs()

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> Pairs: ...
    def __getitem__(self, index: int | slice) -> Pair | Pairs:
        return replace(self, pairs=self.pairs[index]) if isinstance(index, slice) else self.pairs[index]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Which data behaviors are loaded from.

    Args:
        data: `own`, the splits in the behavior's folder, or `caa`, the published ones.
        data_dir: the folder of the published data: generate/<id>/..., test/<id>/...; None for own data, and for
            what `caa-bench data download` left in the user's cache.
        protocol: `caa` keeps the given order and the whole train split, as the paper does.
        seed: for the selection split that is drawn from the published train split.
        beside: the folder that holds the loaded behavior's own folder.
        max_pairs: draw at most so many training pairs; None: all.
    """

    data: Data
    data_dir: Path | None
    protocol: Protocol
    seed: int
    beside: Path
    max_pairs: int | None = None

    def load(self, behavior: str) -> Behavior:
        """Load a behavior by name: the neighbor of the loaded one, else a built-in one."""
        neighbor = self.beside / behavior
        return load_behavior(
            neighbor if has_card(neighbor) else behavior,
            data=self.data,
            data_dir=self.data_dir,
            protocol=self.protocol,
            seed=self.seed,
            max_pairs=self.max_pairs,
        )


def load_behavior(
    name_or_path: str | Path,
    *,
    data: Data = "own",
    data_dir: Path | None = None,
    protocol: Protocol = "default",
    seed: int = 0,
    max_pairs: int | None = None,
) -> Behavior:
    """Read and check a behavior.

    Args:
        name_or_path: a built-in name, or the path of a folder with a behavior.yaml.
        data, data_dir, protocol, seed, max_pairs: see Source.

    Raises:
        UserError: no such behavior, or faults in its files: one line each, with file and line.

    Example:
        >>> from caa_bench import load_behavior
        >>> load_behavior("refusal")
        Behavior('refusal': 320 train, 60 selection, 210 test, 60 open_ended)
    """
    folder = find_folder(name_or_path)
    name = folder.name
    source = Source(
        data=data, data_dir=data_dir, protocol=protocol, seed=seed, beside=folder.parent, max_pairs=max_pairs
    )
    files = split_files(folder, data=data, data_dir=data_dir)
    faults = Faults()
    card = _card(folder / CARD, faults)
    read = {
        split: Split(path=path, read=read_items(path, behavior=name, split=split, faults=faults, twins=data == "caa"))
        for split, path in files.items()
        if split != "open_ended"
    }
    questions = read_open_questions(files["open_ended"], faults=faults) if "open_ended" in files else []
    return assembled(name, card=card, read=read, questions=questions, source=source, faults=faults)


def assembled(
    name: str,
    *,
    card: Card,
    read: Mapping[str, Split],
    questions: Sequence[Located[OpenQuestion]],
    source: Source,
    faults: Faults,
) -> Behavior:
    """A behavior from what was read, checked as a whole, the splits that nobody wrote drawn.

    Args:
        read: `items` alone, or `train` and `test`, `selection` where there is one.
        faults: what was found in its parts.

    Raises:
        UserError: any fault, or too few items to draw from.
    """
    refuse_shared_questions(read, faults)
    faults.refuse()
    try:
        all_splits = completed(
            {split: one.items for split, one in read.items()},
            seed=f"{source.seed}/{name}",
            draw=source.protocol != "caa",
            published=source.data == "caa",
        )
    except ValueError as error:
        raise UserError(f"{next(iter(read.values())).path}: {error}") from None
    published = _published_prompts(source, name)
    behavior = Behavior(
        id=name,
        title=card.title,
        matching=card.matching,
        system_prompts={**card.system_prompts, **(published or {})},
        rubric=card.rubric,
        **all_splits.items,
        open_ended=tuple(entry.value for entry in questions),
        warnings=all_splits.said + split_warnings(all_splits.items) + ((_OWN_WORDING,) if published == {} else ()),
        source=source,
    )
    few = too_few_warning(behavior.pairs(), source.max_pairs)
    return replace(behavior, warnings=(*behavior.warnings, *few)) if few else behavior


def _card(path: Path, faults: Faults) -> Card:
    """The card, or an empty one and its mistakes among the faults, so that all files are read before any is refused."""
    try:
        return read_card(path)
    except UserError as error:
        faults.lines[path] = list(error.lines)
        return Card(title="", matching="", rubric="", system_prompts={})


def _published_prompts(source: Source, behavior: str) -> dict[str, str] | None:
    """The paper's own texts where its protocol is repeated on its data: empty where they are not there."""
    if source.data != "caa" or source.protocol != "caa":
        return None
    from caa_bench.behaviors.paper_prompts import published_prompts

    return published_prompts(published_folder(source.data_dir, behavior), behavior)


def _digest(content: object) -> str:
    text = json.dumps(content, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
