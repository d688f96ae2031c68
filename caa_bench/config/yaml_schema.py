"""Nodes of a YAML document -> an instance of a frozen dataclass, or one line a mistake. Knows nothing of CAA.

A walker of its own and not pydantic: importing pydantic alone takes .2 to .45 s of the second in which `check` promises
to answer, and its locations would still have to be turned back into `file:line: key: what is wrong; what to do`.
"""

from __future__ import annotations

import difflib
import functools
import math
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from caa_bench.config.yaml_lines import Mistake, Node
from caa_bench.errors import UserError
from caa_bench.storage.safe_text import terminal_safe

_WORD = re.compile(r"[A-Za-z0-9_.+-]{1,40}")
_UNIONS = (Union, types.UnionType)
_MAPPINGS = (dict, Mapping)
_hints = functools.cache(get_type_hints)
# What a conversion returns after it has noted a mistake.
_BAD: Any = object()
_NAMES: dict[object, str] = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "null",
}
_PLURALS: dict[object, str] = {int: "integers", float: "numbers", bool: "true or false", str: "texts"}


class Walker:
    """Converts nodes to what the type hints ask for and notes every mistake instead of stopping at the first.

    Attributes:
        mistakes: what was found so far.
        places: (dotted key, `file:line` or `override`) of every value that was written and not defaulted.
    """

    def __init__(self, schema: type) -> None:
        self.mistakes: list[Mistake] = []
        self.places: list[tuple[str, str]] = []
        self.paths = list(_paths(schema))

    def convert(self, node: Node, kind: Any, key: str) -> Any:
        """The node's value as `kind`, or _BAD after noting what is wrong."""
        if key:
            self.places.append((key, node.where))
        origin = get_origin(kind)
        if origin in _UNIONS:
            return self.union(node, get_args(kind), key)
        if origin is Literal:
            return self.literal(node, get_args(kind), key)
        if origin is tuple:
            return self.sequence(node, get_args(kind), key)
        if origin in _MAPPINGS:
            return self.mapping(node, get_args(kind)[1], key)
        if is_dataclass(kind):
            return self.section(node, kind, key)
        return self.scalar(node, kind, key)

    def wrong(self, node: Node, key: str, problem: str) -> Any:
        label = f"{terminal_safe(key)[:120]}: " if key else ""
        self.mistakes.append(Mistake(where=node.where, problem=f"{label}{problem}"))
        return _BAD

    def scalar(self, node: Node, kind: Any, key: str) -> Any:
        value = node.value
        if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            if math.isfinite(value):
                return float(value)
            return self.wrong(node, key, f"{value} is not a finite number; write one that is")
        if type(value) is kind:
            return value
        return self.wrong(node, key, f"expected {describe(kind)}, found {found(node)}; {_advice(node, kind)}")

    def literal(self, node: Node, options: Sequence[object], key: str) -> Any:
        for option in options:
            if type(option) is type(node.value) and option == node.value:
                return option
        names = [_yaml_text(option) for option in options]
        text = node.value[:60] if isinstance(node.value, str) else ""
        near = difflib.get_close_matches(text, [str(option) for option in options], n=1)
        hint = f"did you mean {near[0]!r}?" if near else "choose one of them"
        return self.wrong(node, key, f"expected one of {', '.join(names)}, found {found(node)}; {hint}")

    def union(self, node: Node, members: Sequence[Any], key: str) -> Any:
        # The member of exactly this type first, so that 1 stays an integer under `float | int`.
        ordered = sorted(members, key=lambda member: member is not type(node.value))
        for member in ordered:
            if (value := self.attempt(node, member, key)) is not _BAD:
                return value
        filled = [member for member in members if member is not type(None)]
        alike = [member for member in filled if _same_shape(node, member) or len(filled) == 1]
        if len(alike) == 1:
            return self.convert(node, alike[0], key)
        listed = Node(value=[node], where=node.where)
        for member in members:
            if get_origin(member) is tuple and self.attempt(listed, member, key) is not _BAD:
                return self.convert(node, member, key)
        names = " or ".join(describe(member) for member in members)
        return self.wrong(node, key, f"expected {names}, found {found(node)}; write one of these")

    def attempt(self, node: Node, kind: Any, key: str) -> Any:
        """A conversion whose mistakes are not noted."""
        before = len(self.mistakes)
        value = self.convert(node, kind, key)
        del self.mistakes[before:]
        return value

    def sequence(self, node: Node, members: Sequence[Any], key: str) -> Any:
        if not isinstance(node.value, list):
            kind = tuple[members]  # type: ignore[valid-type]
            return self.wrong(node, key, f"expected {describe(kind)}, found {found(node)}; {_bracketed(node)}")
        if len(members) == 2 and members[1] is Ellipsis:
            kinds: Sequence[Any] = [members[0]] * len(node.value)
        else:
            kinds = members
        if len(kinds) != len(node.value):
            return self.wrong(node, key, f"expected {len(kinds)} values, found {len(node.value)}; write all of them")
        items = zip(node.value, kinds, strict=True)
        values = [self.convert(item, kind, f"{key}[{i}]") for i, (item, kind) in enumerate(items)]
        return _BAD if any(value is _BAD for value in values) else tuple(values)

    def mapping(self, node: Node, kind: Any, key: str) -> Any:
        if not isinstance(node.value, dict):
            expected = f"a mapping of names to {describe(kind)}"
            return self.wrong(node, key, f"expected {expected}, found {found(node)}; write `name: value` lines")
        values = {}
        for name, item in node.value.items():
            if "." in name:
                self.wrong(item, f"{key}.{name}", "a name cannot hold a dot; replace it")
            values[name] = self.convert(item, kind, f"{key}.{name}")
        return _BAD if any(value is _BAD for value in values.values()) else values

    def section(self, node: Node, schema: Any, key: str) -> Any:
        known = {field.name: field for field in fields(schema) if field.init}
        if not isinstance(node.value, dict):
            advice = "write its keys below it, or delete the line"
            return self.wrong(node, key, f"expected {describe(schema)}, found {found(node)}; {advice}")
        before = len(self.mistakes)
        hints = _hints(schema)
        values = {}
        for name, item in node.value.items():
            dotted = f"{key}.{name}" if key else name
            if name in known:
                values[name] = self.convert(item, hints[name], dotted)
            else:
                self.wrong(item, dotted, f"unknown key; {self.suggestion(name, list(known))}")
        for name, field in known.items():
            if name not in node.value and _required(field):
                self.wrong(node, f"{key}.{name}" if key else name, f"missing; write {describe(hints[name])}")
        if len(self.mistakes) > before:
            return _BAD
        return self.construct(schema, values, node, key)

    def construct(self, schema: Callable[..., object], values: dict[str, object], node: Node, key: str) -> Any:
        """The dataclass; a ValueError of its `__post_init__` is a mistake, of one field if it starts `field: `."""
        try:
            return schema(**values)
        except UserError as error:
            lines: Sequence[str] = error.lines
        except ValueError as error:
            lines = str(error).splitlines() or ["not valid; correct it"]
        for line in lines:
            name, colon, problem = line.partition(": ")
            at_field = bool(colon) and name.split(".")[0].split("[")[0] in {f.name for f in fields(schema)}  # type: ignore[arg-type]
            dotted = ".".join(part for part in (key, name if at_field else "") if part)
            place = dict(self.places).get(dotted, node.where)
            self.wrong(Node(value=None, where=place), dotted, problem if at_field else line)
        return _BAD

    def suggestion(self, name: str, known: Sequence[str]) -> str:
        if "." in name and name in self.paths:
            section, _, last = name.rpartition(".")
            return f"write `{last}:` indented under `{section}:`"
        elsewhere = [path for path in self.paths if path.rpartition(".")[2] == name]
        # A slip of the pen in this section comes before a key of that very name in another one.
        slips = difflib.get_close_matches(name[:80], known, n=1, cutoff=0.85)
        near = slips or elsewhere or difflib.get_close_matches(name[:80], known, n=1) or self.slips_elsewhere(name)
        if not near:
            return f"valid keys: {', '.join(known)}"
        return f"did you mean {'one of ' if len(near) > 1 else ''}{', '.join(map(repr, near))}?"

    def slips_elsewhere(self, name: str) -> list[str]:
        """Keys of any section whose own name is nearly this one."""
        last = {path: path.rpartition(".")[2] for path in self.paths}
        near = difflib.get_close_matches(name[:80], set(last.values()), n=1, cutoff=0.85)
        return [path for path, own in last.items() if own in near]


def describe(kind: Any) -> str:
    """A type in the words of a person who writes YAML."""
    origin, members = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(_yaml_text(option) for option in members)}"
    if origin in _UNIONS:
        return " or ".join(describe(member) for member in members)
    if origin is tuple:
        each = _PLURALS.get(members[0]) or f"values, each {describe(members[0])}"
        return f"a list of {each}" if Ellipsis in members else f"a list of {len(members)}"
    if is_dataclass(kind):
        return f"a section with the keys {', '.join(field.name for field in fields(kind))}"
    return "a mapping" if origin in _MAPPINGS else _NAMES[kind]


def found(node: Node) -> str:
    """A value, shortened, in words."""
    if isinstance(node.value, list | dict):
        return "a list" if isinstance(node.value, list) else "a mapping"
    if node.value is None:
        return "nothing"
    return f"the text {_yaml_text(node.value)}" if isinstance(node.value, str) else _yaml_text(node.value)


def _yaml_text(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:56]}...{text[0]}"


def _advice(node: Node, kind: Any) -> str:
    if kind is str and node.value is not None and not isinstance(node.value, list | dict):
        return "put it in quotes"
    if kind is float and isinstance(node.value, str):
        return "write it in digits, like 0.5 or 1e-4"
    return f"write {describe(kind)}"


def _bracketed(node: Node) -> str:
    text = str(node.value)
    return f"write [{text}]" if _WORD.fullmatch(text) and node.value is not None else "write it in brackets, like [x]"


def _same_shape(node: Node, kind: Any) -> bool:
    if isinstance(node.value, dict):
        return is_dataclass(kind) or get_origin(kind) in _MAPPINGS
    if isinstance(node.value, list):
        return get_origin(kind) is tuple
    return False


def _required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _paths(schema: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted key a schema has."""
    hints = _hints(schema)
    for field in fields(schema):
        yield f"{prefix}{field.name}"
        for member in (hints[field.name], *get_args(hints[field.name])):
            if is_dataclass(member):
                yield from _paths(member, f"{prefix}{field.name}.")
