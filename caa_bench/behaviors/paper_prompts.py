"""The paper's system prompts, out of its published source file, which is parsed and never executed."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

from caa_bench.errors import UserError
from caa_bench.storage.files import read_json, write_json

SOURCE_FILE, PROMPTS_FILE = "behaviors.py", "system_prompts.json"
_VARIABLE = "_SYSTEM_PROMPTS"
_SIDES = {"pos": "positive", "neg": "negative"}
_MAX_BYTES = 1_000_000

# Behavior -> {"positive": text, "negative": text}
Prompts = dict[str, dict[str, str]]


def parse_prompts(source: str) -> Prompts:
    """Read `_SYSTEM_PROMPTS = {NAME: {"pos": text, "neg": text}}` from Python source, with `NAME = "..."` before it.

    Only literals are evaluated (`ast.literal_eval`); calls, imports and everything else in the source do nothing.

    Raises:
        ValueError: not Python, or no such table of literals.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"not Python source ({error})") from None
    names: dict[str, object] = {}
    for node in tree.body:
        if not isinstance(node, ast.Assign) or len(node.targets) != 1 or not isinstance(node.targets[0], ast.Name):
            continue
        if node.targets[0].id == _VARIABLE:
            return _prompts_of(node.value, names)
        if isinstance(node.value, ast.Constant):
            names[node.targets[0].id] = node.value.value
    raise ValueError(f"no table called {_VARIABLE}")


def _prompts_of(node: ast.expr, names: Mapping[str, object]) -> Prompts:
    if not isinstance(node, ast.Dict):
        raise ValueError(f"{_VARIABLE} is not a table")
    table: Prompts = {}
    for key, value in zip(node.keys, node.values, strict=True):
        behavior = names.get(key.id) if isinstance(key, ast.Name) else ast.literal_eval(key) if key else None
        texts = ast.literal_eval(value)
        if not isinstance(behavior, str) or not isinstance(texts, dict) or set(texts) != set(_SIDES):
            raise ValueError(f"{_VARIABLE} has an entry that is not a behavior with {' and '.join(_SIDES)}")
        if not all(isinstance(text, str) for text in texts.values()):
            raise ValueError(f"{_VARIABLE} has a prompt that is not a text")
        table[behavior] = {_SIDES[side]: text for side, text in texts.items()}
    return table


def write_prompts(folder: Path) -> None:
    """Write system_prompts.json from the behaviors.py in `folder`.

    Raises:
        UserError: the file holds no table of prompts.
    """
    write_json(folder / PROMPTS_FILE, {"source": SOURCE_FILE, "system_prompts": _from_source(folder / SOURCE_FILE)})


def published_prompts(folder: Path, behavior: str) -> dict[str, str]:
    """The paper's positive and negative prompt, from a download or from a checkout of the paper's repository.

    Args:
        folder: the folder of the published data: system_prompts.json or behaviors.py in it, or behaviors.py beside it.

    Returns:
        The texts by variant; empty where there are none for this behavior.

    Raises:
        UserError: a file is there but cannot be read.
    """
    stored = folder / PROMPTS_FILE
    if stored.is_file():
        content = read_json(stored)
        table = content.get("system_prompts") if isinstance(content, dict) else None
        texts = table.get(behavior, {}) if isinstance(table, dict) else None
        if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
            raise UserError(f"{stored}: not a table of system prompts; delete it and run caa-bench data download")
        return {side: texts[side] for side in _SIDES.values() if side in texts}
    for source in (folder / SOURCE_FILE, folder.parent / SOURCE_FILE):
        if source.is_file():
            return _from_source(source).get(behavior, {})
    return {}


def _from_source(path: Path) -> Prompts:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("too big")
        return parse_prompts(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: holds no system prompts ({error}); remove it, or take the published file") from None
