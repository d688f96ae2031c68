"""`behavior`: a behavior of one's own, begun (`new`), made of a file (`import`), and looked at (`check`).

caa-bench behavior import items.csv --as politeness --title Politeness --matching "The answer is polite."
caa-bench behavior check politeness
"""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from caa_bench.commands.base import Command
from caa_bench.errors import UserError

if TYPE_CHECKING:
    from caa_bench.behaviors.behavior import Behavior
    from caa_bench.behaviors.items import Item

SHOWN = 3
EFFECTS = (0.2, 0.5, 0.8)
"""Small, middling and large, in standard deviations of the per-item effect (Cohen 1988)."""


class BehaviorCommand(Command):
    """Begins, imports and checks behaviors; loads no model."""

    name = "behavior"
    help = "begin, import or check a behavior of your own"

    def add_options(self, parser: ArgumentParser) -> None:
        """Adds the sub-commands `new`, `import` and `check`."""
        steps = parser.add_subparsers(dest="step", required=True, metavar="new|import|check")
        add_new(steps.add_parser("new", help="write a skeleton to fill in", allow_abbrev=False))
        made = steps.add_parser(
            "import", help="make a behavior of a CSV, JSON or JSON lines file, or of a hub data set"
        )
        made.add_argument("source", help="a file, a folder of splits, or a data set's name on the hub (owner/name)")
        made.add_argument("--as", dest="behavior", metavar="NAME", required=True, help="the behavior's name")
        made.add_argument(
            "--replace",
            action="store_true",
            help="put the items in the place of those that the behavior has; its behavior.yaml stays",
        )
        made.add_argument("--title", help="what a reader calls it (default: the name)")
        made.add_argument("--matching", help='what "matching" means, e.g. "The answer is polite."')
        made.add_argument("--open-ended", metavar="FILE", help="questions to be answered in words")
        made.add_argument("--split", help="which split of a data set on the hub (default: all)")
        made.add_argument("--seed", type=int, default=0, help="of the splits that are drawn (%(default)s)")
        _add_to(made)
        check = steps.add_parser("check", help="what is there, how balanced it is, and what it can show")
        check.add_argument("behavior", metavar="FOLDER", help="a behavior's folder, or the name of a built-in one")

    def run(self, options: Namespace) -> int:
        """Say what was written, or what was found."""
        from caa_bench.behaviors.behavior import load_behavior
        from caa_bench.behaviors.written import new_folder, write_behavior

        if options.step == "check":
            print("\n".join(described(load_behavior(options.behavior))))
            return 0
        if options.step == "new":
            write_new(options)
            return 0
        if options.replace:
            _replace(options)
            return 0
        folder = new_folder(Path(options.to), options.behavior)
        behavior = _imported(options)
        write_behavior(folder, behavior)
        print("\n".join(described(behavior)))
        print(f"\nwritten to {folder}; read the texts in {folder / 'behavior.yaml'} and make them your own")
        print(f"then: caa-bench behavior check {folder}")
        return 0


def add_new(parser: ArgumentParser) -> None:
    """The options of `behavior new`, which is `new behavior` too."""
    parser.add_argument("behavior", metavar="NAME", help="its name: letters, digits, . _ -")
    _add_to(parser)


def write_new(options: Namespace) -> None:
    """Write the skeleton, and say what to do with it."""
    from caa_bench.behaviors.written import new_folder, write_skeleton

    folder = new_folder(Path(options.to), options.behavior)
    write_skeleton(folder)
    print(f"{folder}: write what behavior.yaml asks for, and the items into items.csv")
    print(f"then: caa-bench behavior check {folder}")


def _add_to(parser: ArgumentParser) -> None:
    parser.add_argument("--to", default=".", metavar="DIR", help="where its folder goes (%(default)s)")


def _replace(options: Namespace) -> None:
    """Other items under the same name, and what that changed.

    Raises:
        UserError: there is no such behavior, or it is asked for texts that stand in its behavior.yaml.
    """
    from caa_bench.behaviors.behavior import load_behavior
    from caa_bench.behaviors.changed import changed_items
    from caa_bench.behaviors.written import kept_folder, replace_items

    folder = kept_folder(Path(options.to), options.behavior)
    for name in ("title", "matching"):
        if getattr(options, name) is not None:
            raise UserError(f"--{name}: --replace keeps {folder / 'behavior.yaml'}; edit it there")
    old, new = load_behavior(folder), _imported(options)
    found = changed_items(old, new)
    replace_items(folder, new)
    print("\n".join(described(load_behavior(folder))))
    print(f"\n{folder}: {found.line()}")
    if not found.nothing:
        print("runs and fits made before are of the old items; they stay, and the next run fits and measures anew")


def _imported(options: Namespace) -> Behavior:
    from caa_bench.behaviors.card import drafted
    from caa_bench.behaviors.records import behavior_from_path, behavior_from_records

    title = options.title or options.behavior.replace("-", " ").replace("_", " ").capitalize()
    matching = options.matching or f"The answer shows this behavior: {title.lower()}"
    source = Path(options.source)
    asked = None if options.open_ended is None else Path(options.open_ended)
    if source.exists():
        card = drafted(title, matching)
        return behavior_from_path(source, name=options.behavior, card=card, open_ended=asked, seed=options.seed)
    if source.suffix or options.source.count("/") > 1:
        raise UserError(f"{options.source}: there is no such file; check the path")
    if asked is not None:
        raise UserError("--open-ended: is for files; put open_ended.json into the folder afterwards")
    return behavior_from_records(
        options.source, id=options.behavior, title=title, matching=matching, split=options.split, seed=options.seed
    )


def described(behavior: Behavior) -> Iterator[str]:
    """What is there, one line a thing, without a model."""
    from caa_bench.behaviors.checks import ALIKE, near_duplicates

    splits = {split: getattr(behavior, split) for split in ("train", "selection", "test")}
    yield f"{behavior.id}: {behavior.title}. Matching means: {behavior.matching}"
    sizes = ", ".join(f"{len(items)} {split}" for split, items in splits.items())
    yield f"items: {sizes}; {len(behavior.open_ended)} open questions; {len(behavior.pairs())} training pairs"
    for split, items in splits.items():
        if items:
            yield f"{split}: {_balance(items)}"
    close = near_duplicates([item for items in splits.values() for item in items])
    if close:
        yield f"near-duplicates: {len(close)} pairs of items share {ALIKE:.0%} or more of their words, the closest:"
        yield from (f"  {one.id} and {other.id} ({alike:.0%})" for alike, one, other in close[:SHOWN])
    else:
        yield f"near-duplicates: no two items share {ALIKE:.0%} of their words"
    yield from _needs(behavior.test)
    yield from _too_few(behavior)
    yield from (f"note: {line}" for line in behavior.warnings)


def _balance(items: Sequence[Item]) -> str:
    """Letters and lengths: what a model could learn in place of the behavior."""
    first = sum(item.matching == 0 for item in items)
    lengths = [len(item.options[item.matching]) - len(item.options[item.other]) for item in items]
    longer, shorter = sum(length > 0 for length in lengths), sum(length < 0 for length in lengths)
    return f"(A) matches in {first} of {len(items)}; the matching answer is longer in {longer}, shorter in {shorter}"


def _too_few(behavior: Behavior) -> Iterator[str]:
    """What so few items cannot do, before a model is loaded for them."""
    from caa_bench.behaviors.drawing import LEAST_ITEMS
    from caa_bench.runs.tuning_items import FEWEST, search_items

    if len(behavior.test) < LEAST_ITEMS:
        yield (
            f"note: {len(behavior.test)} test items are fewer than the {LEAST_ITEMS} that an interval and a verdict "
            "need; one file of 30 items gives 20 to the test split, one of 100 or more 20%"
        )
    found = search_items(behavior, limit=None)
    if len(found) < FEWEST:
        yield f"note: {len(found)} items to choose a layer and a dose on are fewer than {FEWEST}: none will be chosen"
    elif found.train:
        yield (
            f"note: the selection split has {found.selection} items, so layer and dose are chosen on {found.train} "
            "training items too; with 100 items or more it has 20 of its own"
        )


def _needs(test: Sequence[Item]) -> Iterator[str]:
    """What so many independent items can show, and how many smaller effects need."""
    from caa_bench.analysis.power import Noise, detectable_effect, items_needed

    groups = len({item.cluster for item in test})
    least = float(detectable_effect(1 / math.sqrt(groups)))
    said = f"{len(test)} test items" + ("" if groups == len(test) else f" in {groups} clusters")
    yield f"power: {said} show a mean effect of {least:.2f} times its spread over items or more (80% power, 5% level)"
    needed = ", ".join(f"{items_needed(effect, Noise(items=1.0))} for {effect:g}" for effect in EFFECTS)
    yield f"  test items needed for an effect of so many times its spread: {needed}; after a run: caa-bench power RUN"
