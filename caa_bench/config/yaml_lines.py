"""YAML text -> plain values that remember their `file:line`. Knows nothing of recipes or schemas.

PyYAML composes its nodes and constructs nothing, so no tag ever runs code. What an unquoted scalar means is stricter
than YAML 1.1: `1e-4` is a float, only true/false are booleans (yes/no/on/off stay text), dates and 0x1F stay text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from caa_bench.errors import UserError
from caa_bench.storage.safe_text import terminal_safe

# PyYAML reads about 400 KB/s, and a check must answer within a second.
MAX_BYTES = 64 * 1024
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
    """

    value: Scalar | list[Node] | dict[str, Node]
    where: str


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """`where` is `file:line` or `override`, `problem` the rest of the line."""

    where: str
    problem: str

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}"


@dataclass(frozen=True, kw_only=True)
class Document:
    """A parsed document.

    Args:
        root: its value; null where the text is empty.
        mistakes: those that do not keep the rest from being read: duplicate keys, tags, numbers beyond 64 bits.
    """

    root: Node
    mistakes: tuple[Mistake, ...]


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


@lru_cache(maxsize=64)  # a recipe is read for its keys, its values and its sections; its parents by every recipe
def parse(text: str, *, source: str, numbered: bool = True) -> Document:
    """The one document in `text`; its nodes are shared, so nobody changes them.

    Args:
        source: file name to show.
        numbered: False shows `source` alone, for text that is not a file (an override).

    Raises:
        UserError: what ends the reading: syntax, tabs, too deep, too many values, a second document.
    """
    reader = _Reader(text, source=source, numbered=numbered)
    try:
        return Document(root=reader.document(), mistakes=tuple(reader.mistakes))
    except UserError as error:
        raise UserError(*map(str, reader.mistakes), *error.lines) from None
    except yaml.MarkedYAMLError as error:
        raise UserError(*map(str, reader.mistakes), reader.syntax_mistake(error)) from None
    except yaml.reader.ReaderError as error:
        where = reader.at(text.count("\n", 0, error.position))
        raise UserError(f"{where}: character #x{error.character:04x} is not allowed; remove it") from None
    except RecursionError:
        raise UserError(f"{reader.at(0)}: nested deeper than {MAX_DEPTH} levels; flatten it") from None
    except (ValueError, OverflowError):  # PyYAML builds "\UFFFFFFFF" with chr() and does not guard it
        raise UserError(f"{reader.at(reader.line)}: an escape beyond Unicode; correct it") from None


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


class _Loader(yaml.SafeLoader):
    """Composes nodes; a scalar without a tag of its own gets none, so that a written tag can be told and refused."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> Any:
        """No tag, whatever the text looks like: `resolve` below decides what it means."""
        return ""


class _Reader:
    """PyYAML's nodes -> ours, with every mistake noted."""

    def __init__(self, text: str, *, source: str, numbered: bool) -> None:
        self.text, self.source, self.numbered = text, source, numbered
        self.mistakes: list[Mistake] = []
        self.size = 0
        self.line = 0
        self.open: list[int] = []

    def at(self, line: int) -> str:
        return f"{self.source}:{line + 1}" if self.numbered else self.source

    def note(self, where: str, path: tuple[str, ...], problem: str) -> None:
        key = "".join(part if part.startswith("[") else f".{part}" for part in path).lstrip(".")
        self.mistakes.append(Mistake(where=where, problem=f"{terminal_safe(key)[:120]}: {problem}" if key else problem))

    def document(self) -> Node:
        loader = _Loader(self.text)  # built here: the scanner may refuse the first characters as soon as it is made
        try:
            composed = loader.get_single_node()
        finally:
            self.line = loader.line
        return Node(value=None, where=self.at(0)) if composed is None else self.node(composed, path=())

    def node(self, composed: Any, *, path: tuple[str, ...]) -> Node:
        where = self.at(composed.start_mark.line)
        if id(composed) in self.open:
            raise UserError(f"{where}: a value contains itself through its own alias; write it out")
        if len(path) > MAX_DEPTH:
            raise UserError(f"{where}: nested deeper than {MAX_DEPTH} levels; flatten it")
        self.size += 1
        if self.size > MAX_VALUES:
            raise UserError(f"{where}: over {MAX_VALUES} values, aliases expanded; shorten it")
        if composed.tag:
            self.note(where, path, f"the tag {composed.tag!r} is not allowed; remove it and write the plain value")
        if isinstance(composed, yaml.ScalarNode):
            return self.scalar(composed, where=where, path=path)
        self.open.append(id(composed))
        if isinstance(composed, yaml.SequenceNode):
            items = [self.node(item, path=(*path, f"[{i}]")) for i, item in enumerate(composed.value)]
            made = Node(value=items, where=where)
        else:
            made = self.mapping(composed, where=where, path=path)
        self.open.pop()
        return made

    def scalar(self, composed: Any, *, where: str, path: tuple[str, ...]) -> Node:
        if composed.style is not None:
            return Node(value=composed.value, where=where)
        try:
            return Node(value=resolve(composed.value), where=where)
        except OverflowError:
            self.note(where, path, f"{composed.value[:24]} is beyond 64 bits; write a smaller number, or quote it")
            return Node(value=0, where=where)

    def mapping(self, composed: Any, *, where: str, path: tuple[str, ...]) -> Node:
        entries: dict[str, Node] = {}
        merged: list[Node] = []
        for written, value in composed.value:
            key_where = self.at(written.start_mark.line)
            if not isinstance(written, yaml.ScalarNode) or written.tag or written.value == "":
                raise UserError(f"{key_where}: a key must be plain text; write `name: value`")
            key = str(written.value)
            node = self.node(value, path=(*path, key))
            if key == "<<":
                merged.append(node)
            elif key in entries:
                self.note(key_where, (*path, key), f"duplicate key (first at {entries[key].where}); delete one")
            else:
                entries[key] = Node(value=node.value, where=key_where)
        for node in merged:
            self.merge(entries, node, path=path)
        return Node(value=entries, where=where)

    def merge(self, entries: dict[str, Node], node: Node, *, path: tuple[str, ...]) -> None:
        """`<<: *anchor` adds the keys that are not there yet."""
        for source in node.value if isinstance(node.value, list) else [node]:
            if not isinstance(source.value, dict):
                self.note(source.where, path, "`<<` needs a mapping; write `<<: *anchor`")
                return
            for key, value in source.value.items():
                entries.setdefault(key, value)

    def syntax_mistake(self, error: yaml.MarkedYAMLError) -> str:
        lines = self.text.splitlines() or [""]
        line = error.problem_mark.line if error.problem_mark else 0
        opened = error.context_mark.line if error.context_mark else line
        if line >= len(lines):  # an unclosed bracket is noticed at the end of the file: name the line that opens it
            line = min(opened, len(lines) - 1)
        problem = terminal_safe(str(error.problem or error.context))
        if error.context == "expected a single document in the stream":
            return f"{self.at(line)}: a second document; keep one, without `---`"
        if problem.startswith("found undefined alias"):
            name = problem.split("'")[1]
            return f"{self.at(line)}: *{name} has no &{name} before it; add it"
        if any("\t" in text[: len(text) - len(text.lstrip())] for text in lines[max(line - 1, 0) : line + 1]):
            return f"{self.at(line)}: a tab in the indentation; indent with spaces"
        start = f" (it starts at line {opened + 1})" if opened != line and self.numbered else ""
        return f"{self.at(line)}: not valid YAML: {problem}{start}; check colons, quotes, brackets and indentation"
