"""Named arms: several interventions of one class side by side, each with settings and a name of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from caa_bench.errors import UserError
from caa_bench.storage.safe_text import terminal_safe

if TYPE_CHECKING:
    from caa_bench.interventions.base import Intervention

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What a label begins with.

    Args:
        name: an entry of the recipe's `arms`, or a class's own name.
        uses: the class.
        config: its settings; None: the class's own section.
    """

    name: str
    uses: type[Intervention]
    config: Any = None

    @classmethod
    def of(cls, name: str, uses: type[Intervention], entry: Any) -> Arm:
        """From what a recipe's entry was read as (`armed_section`)."""
        values = {key.name: getattr(entry, key.name) for key in fields(uses.Config)}
        return cls(name=name, uses=uses, config=uses.Config(**values))


def arm_of(label: str, arms: Mapping[str, Arm], classes: Mapping[str, type[Intervention]]) -> Arm | None:
    """The arm or the class that a label belongs to: the longest name that it is or begins with.

    Args:
        arms: the recipe's, by name.
        classes: every intervention by its name.
    """
    known = {name: Arm(name=name, uses=cls) for name, cls in classes.items()} | dict(arms)
    names = [name for name in known if label == name or label.startswith(f"{name}_")]
    return known[max(names, key=len)] if names else None


def armed_section(cls: type[Intervention]) -> type:
    """The section of an arm: the class's own with `uses` in front, which names the class."""
    uses = [("uses", str, field(default=cls.name))]
    return make_dataclass(f"{cls.__name__}Arm", uses, bases=(cls.Config,), frozen=True, kw_only=True)


def classes_of(
    entries: Sequence[tuple[str, Mapping[str, Any], str]],
    classes: Mapping[str, type[Intervention]],
    *,
    taken: Iterable[str] = (),
) -> dict[str, type[Intervention]]:
    """The class of each arm, which decides what keys its entry has.

    Args:
        entries: name, what is written below it, and where.
        classes: every intervention by its name.
        taken: names of other sections.

    Raises:
        UserError: one line an arm without a class, or with a name that it cannot have.
    """
    mistakes, found = [], {}
    for name, values, where in entries:
        uses = values.get("uses")
        problem = name_problem(name, classes) or (
            f"{name!r} is the name of another section; give the arm another one" if name in taken else ""
        )
        if problem:
            mistakes.append(f"{where}: arms: {problem}")
        elif uses is None:
            mistakes.append(f"{where}: arms.{name}.uses: missing; name its class, one of {', '.join(classes)}")
        elif uses not in classes:
            near = get_close_matches(str(uses), classes, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(classes)}"
            mistakes.append(f"{where}: arms.{name}.uses: {terminal_safe(str(uses)[:60])!r} is no intervention; {hint}")
        else:
            found[name] = classes[uses]
    if mistakes:
        raise UserError(*mistakes)
    return found


def name_problem(name: str, classes: Mapping[str, type[Intervention]]) -> str:
    """Why an arm cannot have this name; "" where it can."""
    if not _NAME.fullmatch(name):
        return f"{name!r} is no name for an arm; use letters, digits and _, a letter first, 40 at most"
    for known, cls in classes.items():
        if name in (known, *(f"{known}_{variant}" for variant in cls.variants)):
            return f"{name!r} is what the class {known} is called without a name; give the arm another one"
    return ""


def in_arm(line: str, arm: str, name: str) -> str:
    """A mistake as said of an arm: `arms.lora_r64.rank` where the class itself says `lora_sft.rank`."""
    line = f"arms.{arm}.{line.removeprefix(f'{name}.')}" if line.startswith(f"{name}.") else line
    return line.replace(f" {name}_", f" {arm}_")
