"""YAML file + `key=value` overrides -> an instance of a schema, or one line a mistake. Knows nothing of CAA.

load(Path("recipes/compare.yaml"), ["caa.layers=[10, 13]"], Recipe)
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from caa_bench.errors import UserError
from caa_bench.safe_text import terminal_safe
from caa_bench.yaml_lines import MAX_DEPTH, Node, parse, read_text, resolve
from caa_bench.yaml_schema import Walker, found

Schema = TypeVar("Schema")
Find = Callable[[str, Path], Path]
Leaf = str | int | float | bool | None | list[Any]

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./+-]*")
# What YAML wants escaped inside double quotes beyond JSON's own escapes.
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


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
    mistakes: list[str] = []
    root = Node(value={}, where="recipe")
    try:
        if path is not None:
            root = _read(path, find or (lambda name, folder: folder / name), ())
    except UserError as error:
        mistakes += error.lines
    for text in overrides:
        try:
            root = _merged(root, _override(text))
        except UserError as error:
            mistakes += error.lines
    if mistakes:
        raise UserError(*mistakes)
    walker = Walker(schema)
    values = walker.convert(root, schema, "")
    if walker.mistakes:
        raise UserError(*walker.mistakes)
    return Parsed(values=values, where=walker.where)


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


def dump(values: object) -> str:
    """Canonical YAML of a schema's instance; `load` reads an equal one back."""
    return "".join(f"{line}\n" for line in _block(_mapping(values), ""))


def flatten(values: object) -> dict[str, Leaf]:
    """Dotted key -> JSON-ready value (lists stay lists), in the schema's order."""
    flat: dict[str, Leaf] = {}
    for name, value in _mapping(values).items():
        if is_dataclass(value) or isinstance(value, Mapping):
            flat |= {f"{name}.{key}": leaf for key, leaf in flatten(value).items()}
        else:
            flat[name] = _jsonable(value)
    return flat


def _read(path: Path, find: Find, chain: tuple[Path, ...]) -> Node:
    """One file on top of what it extends."""
    shown = terminal_safe(os.path.normpath(path))
    if not path.is_file():
        raise UserError(f"{shown}: no such file; {_near_files(path)}")
    node = parse(read_text(path, shown), source=shown)
    if node.value is None:
        return Node(value={}, where=node.where)
    if not isinstance(node.value, dict):
        raise UserError(f"{node.where}: expected `key: value` lines, found {found(node)}; write a mapping")
    own = Node(value={key: value for key, value in node.value.items() if key != "extends"}, where=node.where)
    if "extends" not in node.value:
        return own
    return _merged(_extended(node.value["extends"], path, find, chain), own)


def _extended(named: Node, path: Path, find: Find, chain: tuple[Path, ...]) -> Node:
    if not isinstance(named.value, str) or not named.value:
        raise UserError(f"{named.where}: extends: expected a file name, found {found(named)}; name one YAML file")
    target = find(named.value, path.parent)
    chain = (*chain, path.resolve())
    if target.resolve() in chain:
        names = " -> ".join(file.name for file in (*chain, target.resolve()))
        raise UserError(f"{named.where}: extends: a cycle: {terminal_safe(names)}; remove one of them")
    if not target.is_file():
        shown = terminal_safe(named.value)
        raise UserError(f"{named.where}: extends: no file {shown!r}; {_near_files(target)}")
    return _read(target, find, chain)


def _near_files(path: Path) -> str:
    try:
        names = sorted(file.name for file in path.parent.glob("*.y*ml"))
    except (OSError, ValueError):
        names = []
    near = difflib.get_close_matches(path.name, names, n=1) or [name for name in names if Path(name).stem == path.name]
    if near:
        return f"did you mean {terminal_safe(os.path.normpath(path.parent / near[0]))!r}?"
    return "give the path of a YAML file"


def _override(text: str) -> Node:
    """`a.b=value` -> {a: {b: value}}."""
    key, equals, value = text.partition("=")
    key = key.strip()
    parts = key.split(".")
    if not equals or not key:
        raise UserError(f"override: {terminal_safe(text[:60])!r}: not `key=value`; write for example seed=1")
    if not all(parts) or len(parts) > MAX_DEPTH:
        raise UserError(f"override: {terminal_safe(key[:60])!r}: not a dotted key; write for example caa.layers=[13]")
    if key == "extends":
        raise UserError("override: extends: belongs in a file; write it there, or give another file")
    try:
        node = parse(value, source="override", numbered=False)
    except UserError as error:
        raise UserError(*(f"override: {terminal_safe(key)}:{line[9:]}" for line in error.lines)) from None
    for part in reversed(parts):
        node = Node(value={part: node}, where="override")
    return node


def _merged(base: Node, top: Node) -> Node:
    """Mappings merge deeply, everything else replaces."""
    if not isinstance(base.value, dict) or not isinstance(top.value, dict):
        return top
    merged = dict(base.value)
    for key, node in top.value.items():
        merged[key] = _merged(merged[key], node) if key in merged else node
    return Node(value=merged, where=top.where)


def _mapping(values: object) -> Mapping[str, object]:
    if isinstance(values, Mapping):
        return values
    return {field.name: getattr(values, field.name) for field in fields(values) if field.init}  # type: ignore[arg-type]


def _jsonable(value: object) -> Any:
    if isinstance(value, tuple | list):
        return [_jsonable(item) for item in value]
    if is_dataclass(value) or isinstance(value, Mapping):
        return {key: _jsonable(item) for key, item in _mapping(value).items()}
    return value


def _block(values: Mapping[str, object], indent: str) -> list[str]:
    lines = []
    for key, value in values.items():
        if (is_dataclass(value) or isinstance(value, Mapping)) and _mapping(value):
            lines += [f"{indent}{_flow(key)}:", *_block(_mapping(value), f"{indent}  ")]
        else:
            lines.append(f"{indent}{_flow(key)}: {_flow(value)}")
    return lines


def _flow(value: object) -> str:
    if isinstance(value, tuple | list):
        return f"[{', '.join(_flow(item) for item in value)}]"
    if is_dataclass(value) or isinstance(value, Mapping):
        return f"{{{', '.join(f'{_flow(key)}: {_flow(item)}' for key, item in _mapping(value).items())}}}"
    if isinstance(value, str):
        if _PLAIN.fullmatch(value) and resolve(value) == value:
            return value
        return _UNPRINTABLE.sub(_escaped, json.dumps(value, ensure_ascii=False))
    return json.dumps(value, allow_nan=False)


def _escaped(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
