"""YAML file + `key=value` overrides -> an instance of a schema, or one line a mistake. Knows nothing of CAA.

load(Path("recipes/compare.yaml"), ["caa.layers=[10, 13]"], Recipe)
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from caa_bench.config.yaml_dump import dump as dump
from caa_bench.config.yaml_dump import flatten as flatten
from caa_bench.config.yaml_lines import MAX_DEPTH, Node, parse, read_text
from caa_bench.config.yaml_schema import Walker, found
from caa_bench.errors import UserError
from caa_bench.storage.paths import is_file
from caa_bench.storage.safe_text import terminal_safe

Schema = TypeVar("Schema")
Find = Callable[[str, Path], Path]

# More lines than this help nobody.
MAX_MISTAKES = 50


@dataclass(frozen=True, kw_only=True)
class Parsed(Generic[Schema]):
    """What a file and its overrides say.

    Args:
        values: the schema's instance, defaults filled in.
        where: dotted key -> `file:line` or `override`, for every key that was written and not defaulted.
    """

    values: Schema
    where: dict[str, str]


def load(
    path: Path | None, overrides: Sequence[str], schema: type[Schema], *, find: Find | None = None
) -> Parsed[Schema]:
    """Read a YAML file, what it `extends`, and the overrides on top; the last one to set a key wins.

    Args:
        path: the file; None starts from the schema's defaults.
        overrides: `dotted.key=value` each, the value read as YAML.
        schema: a frozen keyword-only dataclass of scalars, Literal, Optional, unions, tuple, dict[str, ...] and
            dataclasses. A ValueError from its `__post_init__` is reported as a mistake (`field: what; what to do`).
        find: (the name written after `extends:`, the folder of that file) -> path; default: relative to the folder.

    Raises:
        UserError: one line a mistake: `file:line: key: what is wrong; what to do`, all of them at once.
    """
    reader = _Reader(find or (lambda name, folder: folder / name))
    root = Node(value={}, where="recipe") if path is None else reader.file(path, ())
    for text in overrides:
        root = _merged(root, reader.override(text))
    walker = Walker(schema)
    values: Any = None
    if reader.complete:
        values = walker.convert(root, schema, "")
    # A value with a syntax error is not refused once more for what the schema says of the rest of it.
    lines = reader.lines + [str(mistake) for mistake in walker.mistakes if mistake.where not in reader.refused]
    if len(lines) > MAX_MISTAKES:
        lines[MAX_MISTAKES:] = [f"{root.where}: {len(lines) - MAX_MISTAKES} more mistakes; correct these first"]
    if lines:
        raise UserError(*lines)
    return Parsed(values=values, where=dict(walker.places))


def written(
    path: Path | None, overrides: Sequence[str], key: str, *, find: Find | None = None
) -> list[tuple[str, str]]:
    """The texts of a list at the top of the file or in the overrides, before any schema; each with its place.

    What is no list of texts is left to `load`, which says so.
    """
    root = _root(path, overrides, find)
    listed = root.value[key].value if isinstance(root.value, dict) and key in root.value else []
    items = listed if isinstance(listed, list) else []
    return [(item.value, item.where) for item in items if isinstance(item.value, str)]


def entries(
    path: Path | None, overrides: Sequence[str], key: str, *, find: Find | None = None
) -> list[tuple[str, dict[str, Any], str]]:
    """The sections below a mapping at the top, before any schema: each one's name, its plain values, and its place.

    What is no mapping of mappings is left to `load`, which says so.
    """
    root = _root(path, overrides, find)
    below = root.value[key].value if isinstance(root.value, dict) and key in root.value else {}
    named = below.items() if isinstance(below, dict) else ()
    return [
        (name, {key: node.value for key, node in section.value.items()}, section.where)
        for name, section in named
        if isinstance(section.value, dict)
    ]


def _root(path: Path | None, overrides: Sequence[str], find: Find | None) -> Node:
    reader = _Reader(find or (lambda name, folder: folder / name))
    root = Node(value={}, where="recipe") if path is None else reader.file(path, ())
    for text in overrides:
        root = _merged(root, reader.override(text))
    return root


def split_overrides(text: str) -> list[str]:
    """`caa.layers=[10, 13] seed=1` -> its overrides, split at the blanks outside of quotes and brackets.

    Raises:
        UserError: a quote or a bracket that is never closed.
    """
    words: list[str] = []
    word, quote, depth, before = "", "", 0, " "
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"" and before in " \t\n=[{,:":  # not the apostrophe of don't
            quote = character
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        if character.isspace() and not quote and depth <= 0:
            words.append(word)
            word = ""
        else:
            word += character
        before = character
    if quote or depth > 0:
        raise UserError(f"override: {terminal_safe(word)!r}: a quote or bracket is never closed; close it")
    return [word for word in [*words, word] if word]


class _Reader:
    """Files and overrides -> nodes; notes every mistake and goes on with what could be read.

    Attributes:
        lines: one a mistake.
        refused: where something was read and refused.
        complete: False once a file could not be read at all, so that checking the rest would mislead.
    """

    def __init__(self, find: Find) -> None:
        self.find = find
        self.lines: list[str] = []
        self.refused: set[str] = set()
        self.complete = True

    def file(self, path: Path, chain: tuple[Path, ...]) -> Node:
        """One file on top of what it extends."""
        shown = terminal_safe(os.path.normpath(path))
        if not is_file(path):
            return self.unread(f"{shown}: no such file; {_near_files(path)}")
        try:
            document = parse(read_text(path, shown), source=shown)
        except UserError as error:
            return self.unread(*error.lines)
        root = document.root
        self.note(*map(str, document.mistakes))
        self.refused |= {mistake.where for mistake in document.mistakes}
        if root.value is None:
            return Node(value={}, where=root.where)
        if not isinstance(root.value, dict):
            problem = f"{root.where}: expected `key: value` lines, found {found(root)}; write a mapping"
            return self.unread(*(() if root.where in self.refused else (problem,)))
        own = Node(value={key: value for key, value in root.value.items() if key != "extends"}, where=root.where)
        if "extends" not in root.value:
            return own
        return _merged(self.extended(root.value["extends"], path, (*chain, path.resolve())), own)

    def extended(self, named: Node, path: Path, chain: tuple[Path, ...]) -> Node:
        where = f"{named.where}: extends"
        if not isinstance(named.value, str) or not named.value:
            return self.unread(f"{where}: expected a file name, found {found(named)}; name one YAML file")
        target = self.find(named.value, path.parent)
        if not is_file(target):
            return self.unread(f"{where}: no file {terminal_safe(named.value)!r}; {_near_files(target)}")
        if target.resolve() in chain:
            names = " -> ".join(file.name for file in (*chain, target))
            return self.unread(f"{where}: a cycle, {terminal_safe(names)}; remove one of them")
        return self.file(target, chain)

    def override(self, text: str) -> Node:
        """`a.b=value` -> {a: {b: value}}."""
        key, equals, value = text.partition("=")
        parts = key.strip().split(".")
        shown = terminal_safe(key.strip()[:60])
        if not equals or parts == [""]:
            return self.note(f"override: {terminal_safe(text[:60])!r}: not `key=value`; write for example seed=1")
        if not all(parts) or len(parts) > MAX_DEPTH:
            return self.note(f"override: {shown!r}: not a dotted key; write for example caa.layers=[13]")
        if parts == ["extends"]:
            return self.note("override: extends: belongs in a file; write it there, or give another file")
        try:
            document = parse(value, source=f"override: {shown}", numbered=False)
        except UserError as error:
            return self.note(*error.lines)
        if document.mistakes:
            return self.note(*map(str, document.mistakes))
        node = _placed(document.root, "override")
        for part in reversed(parts):
            node = Node(value={part: node}, where="override")
        return node

    def note(self, *lines: str) -> Node:
        self.lines += lines
        return Node(value={}, where="override")

    def unread(self, *lines: str) -> Node:
        self.complete = False
        return self.note(*lines)


def _placed(node: Node, where: str) -> Node:
    """The same value, all of it at one place."""
    value = node.value
    if isinstance(value, dict):
        value = {key: _placed(item, where) for key, item in value.items()}
    elif isinstance(value, list):
        value = [_placed(item, where) for item in value]
    return Node(value=value, where=where)


def _near_files(path: Path) -> str:
    try:
        names = sorted(file.name for file in path.parent.glob("*.y*ml"))
    except (OSError, ValueError):
        names = []
    near = difflib.get_close_matches(path.name, names, n=1) or [name for name in names if Path(name).stem == path.name]
    if near:
        return f"did you mean {terminal_safe(os.path.normpath(path.parent / near[0]))!r}?"
    return "give the path of a YAML file"


def _merged(base: Node, top: Node) -> Node:
    """Mappings merge deeply, everything else replaces."""
    if not isinstance(base.value, dict) or not isinstance(top.value, dict):
        return top
    merged = dict(base.value)
    for key, node in top.value.items():
        merged[key] = _merged(merged[key], node) if key in merged else node
    # A section that an override changes in part still stands where the file has it.
    return Node(value=merged, where=base.where if top.where == "override" else top.where)
