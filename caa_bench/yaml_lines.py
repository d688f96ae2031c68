"""YAML text -> plain values that remember their `file:line`. Knows nothing of recipes or schemas.

A small, strict reading of YAML on top of PyYAML's event stream, so that nothing is ever constructed from a tag:
`1e-4` is a float, only true/false are booleans (yes/no/on/off stay text), dates and 0x1F stay text, tags are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from caa_bench.errors import UserError

# PyYAML reads about 400 KB/s, and a check must answer within a second.
MAX_BYTES = 128 * 1024
MAX_DEPTH = 24
# Counted with every alias expanded, so that a few nested aliases cannot become gigabytes.
MAX_VALUES = 20_000

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

Scalar = str | int | float | bool | None


@dataclass(frozen=True, kw_only=True)
class Node:
    """One value of a document.

    Args:
        value: a scalar, a list of nodes or a mapping of nodes.
        where: `file:line` of the value, or of its key where it has one.
        size: number of values in it, aliases expanded.
    """

    value: Scalar | list[Node] | dict[str, Node]
    where: str
    size: int = 1


def read_text(path: Path, shown: str) -> str:
    """The text of a small UTF-8 file.

    Raises:
        UserError: missing, unreadable, too big, NUL, byte order mark, not UTF-8; one line that starts with `shown`.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{shown}: cannot be read ({reason}); give the path of a YAML file") from None
    if len(data) > MAX_BYTES:
        raise UserError(f"{shown}:1: over {MAX_BYTES // 1024} KiB; a YAML file of this kind is a few KiB, shorten it")
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{shown}:1: starts with a byte order mark; save the file as UTF-8 without one")
    if b"\0" in data:
        line = data[: data.index(b"\0")].count(b"\n") + 1
        raise UserError(f"{shown}:{line}: contains a NUL byte; save the file as plain UTF-8 text")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{shown}:{line}: not UTF-8 (byte 0x{data[error.start]:02x}); save the file as UTF-8") from None


def parse(text: str, *, source: str, numbered: bool = True) -> Node:
    """The one document in `text`; empty text is a null node.

    Args:
        source: file name to show.
        numbered: False shows `source` alone, for text that is not a file (an override).

    Raises:
        UserError: syntax, tabs, tags, duplicate keys (all of them), too deep, too many values, a second document.
    """
    reader = _Reader(text, source=source, numbered=numbered)
    try:
        node = reader.document()
    except yaml.MarkedYAMLError as error:
        raise UserError(*reader.mistakes, reader.syntax_mistake(error)) from None
    except yaml.reader.ReaderError as error:
        where = reader.at(text.count("\n", 0, error.position))
        raise UserError(f"{where}: character #x{error.character:04x} is not allowed; remove it") from None
    except ValueError as error:  # PyYAML builds "\UFFFFFFFF" with chr() and does not guard it
        raise UserError(f"{reader.at(reader.line)}: not valid YAML ({error}); correct the escape") from None
    if reader.mistakes:
        raise UserError(*reader.mistakes)
    return node


def resolve(text: str) -> Scalar:
    """What an unquoted scalar means.

    Raises:
        OverflowError: an integer beyond 64 bits.
    """
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text):
        if len(text) > 20 or abs(int(text)) >= 2**63:
            raise OverflowError
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


class _Reader:
    """Composes nodes from events. Recursion is bounded by MAX_DEPTH, the scanner by reading events lazily."""

    def __init__(self, text: str, *, source: str, numbered: bool) -> None:
        self.text, self.source, self.numbered = text, source, numbered
        self.mistakes: list[str] = []
        self.anchors: dict[str, Node] = {}
        self.line = 0
        self.events: Iterator[Any] = iter(())

    def at(self, line: int) -> str:
        return f"{self.source}:{line + 1}" if self.numbered else self.source

    def next(self) -> Any:  # a yaml.Event; the stubs know neither its marks nor the fields of its kinds
        event = next(self.events)
        self.line = event.start_mark.line
        return event

    def document(self) -> Node:
        # Built here: the scanner looks at the first characters, and may refuse them, as soon as it is made.
        self.events = yaml.parse(self.text, Loader=yaml.SafeLoader)
        self.next()  # stream start
        if isinstance(self.next(), yaml.StreamEndEvent):
            return Node(value=None, where=self.at(0))
        node = self.node(self.next(), depth=0)
        self.next()  # document end
        if not isinstance(self.next(), yaml.StreamEndEvent):
            raise UserError(*self.mistakes, f"{self.at(self.line)}: a second document; keep one, without `---`")
        return node

    def node(self, event: Any, *, depth: int) -> Node:
        where = self.at(event.start_mark.line)
        if depth > MAX_DEPTH:
            raise UserError(f"{where}: nested deeper than {MAX_DEPTH} levels; flatten it")
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event, where)
        if event.tag is not None:
            self.mistakes.append(f"{where}: tag {event.tag!r} is not allowed; remove it and write the plain value")
        if isinstance(event, yaml.ScalarEvent):
            node = self.scalar(event, where)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self.sequence(where, depth)
        else:
            node = self.mapping(where, depth)
        if node.size > MAX_VALUES:
            raise UserError(f"{where}: more than {MAX_VALUES} values, aliases expanded; shorten it")
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def alias(self, event: Any, where: str) -> Node:
        # An anchor is known only once its value is complete, so a value can never contain itself.
        if event.anchor not in self.anchors:
            raise UserError(*self.mistakes, f"{where}: *{event.anchor} has no &{event.anchor} before it; add it")
        return self.anchors[event.anchor]

    def scalar(self, event: Any, where: str) -> Node:
        if event.style is not None:
            return Node(value=event.value, where=where)
        try:
            return Node(value=resolve(event.value), where=where)
        except OverflowError:
            self.mistakes.append(f"{where}: {event.value[:24]} is beyond 64 bits; write a smaller number, or quote it")
            return Node(value=0, where=where)

    def sequence(self, where: str, depth: int) -> Node:
        items: list[Node] = []
        size = 1
        while not isinstance(event := self.next(), yaml.SequenceEndEvent):
            items.append(self.node(event, depth=depth + 1))
            size = self.grown(size, items[-1], where)
        return Node(value=items, where=where, size=size)

    def mapping(self, where: str, depth: int) -> Node:
        entries: dict[str, Node] = {}
        merged: list[Node] = []
        size = 1
        while not isinstance(event := self.next(), yaml.MappingEndEvent):
            key, key_where = self.key(event)
            node = self.node(self.next(), depth=depth + 1)
            size = self.grown(size, node, where)
            if key == "<<":
                merged.append(node)
            elif key in entries:
                first = entries[key].where
                self.mistakes.append(f"{key_where}: {key!r} is a duplicate key (first at {first}); delete one")
            else:
                entries[key] = Node(value=node.value, where=key_where, size=node.size)
        for node in merged:
            self.merge(entries, node)
        return Node(value=entries, where=where, size=size)

    def key(self, event: Any) -> tuple[str, str]:
        where = self.at(event.start_mark.line)
        if not isinstance(event, yaml.ScalarEvent) or event.tag is not None or event.value == "":
            raise UserError(*self.mistakes, f"{where}: a key must be plain text; write `name: value`")
        return event.value, where

    def merge(self, entries: dict[str, Node], node: Node) -> None:
        """`<<: *anchor` adds the keys that are not there yet."""
        for source in node.value if isinstance(node.value, list) else [node]:
            if not isinstance(source.value, dict):
                self.mistakes.append(f"{source.where}: `<<` needs a mapping; write `<<: *anchor`")
                return
            for key, value in source.value.items():
                entries.setdefault(key, value)

    def grown(self, size: int, node: Node, where: str) -> int:
        if size + node.size > MAX_VALUES:
            raise UserError(f"{where}: more than {MAX_VALUES} values, aliases expanded; shorten it")
        return size + node.size

    def syntax_mistake(self, error: yaml.MarkedYAMLError) -> str:
        line = error.problem_mark.line if error.problem_mark else self.line
        lines = self.text.splitlines() or [""]
        near = [lines[number] for number in (line, line - 1) if 0 <= number < len(lines)]
        if any("\t" in text[: len(text) - len(text.lstrip())] for text in near):
            return f"{self.at(line)}: a tab in the indentation; indent with spaces"
        opened = error.context_mark.line if error.context_mark else line
        start = f" (it starts at line {opened + 1})" if opened != line and self.numbered else ""
        problem = " ".join(str(error.problem or error.context).split())
        return f"{self.at(line)}: not valid YAML: {problem}{start}; check colons, quotes, brackets and indentation"
