"""An instance of a schema -> canonical YAML, or flat dotted keys."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from caa_bench.config.yaml_lines import resolve

Leaf = str | int | float | bool | None | list[Any]

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./+-]*")
# What YAML wants escaped inside double quotes beyond JSON's own escapes.
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


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
