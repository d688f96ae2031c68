"""Values given in Python -> what a schema asks for, with the checks and the sentences of a YAML file.

made(CAA.Config, {"layers": [3]}, key="caa")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import PurePath
from typing import Any, TypeVar, get_type_hints

from caa_bench.config.yaml_lines import Node
from caa_bench.config.yaml_schema import Walker
from caa_bench.errors import UserError

Schema = TypeVar("Schema")


def made(schema: type[Schema], values: Mapping[str, Any], *, key: str = "") -> Schema:
    """An instance of a frozen dataclass from values by name; a list stands for a tuple, an integer for a number.

    Args:
        key: the section that messages begin with ("caa"); "" for the top of a recipe.

    Raises:
        UserError: one line a mistake, as of a recipe: `caa.layers: expected ..., found ...; write ...`.
    """
    walker = Walker(schema)
    instance: Schema = walker.convert(_node(values), schema, key)
    _refuse(walker)
    return instance


def fields_of(schema: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The same for each value by itself, without making an instance: for a dataclass that checks itself.

    Raises:
        UserError: one line a mistake.
    """
    walker, hints = Walker(schema), get_type_hints(schema)
    found = {name: walker.convert(_node(value), hints[name], name) for name, value in values.items()}
    _refuse(walker)
    return found


def configured(schema: type, config: Any, given: Mapping[str, Any], *, section: str) -> Any:
    """The config of an object that takes either one, or the config's keys as arguments of its own.

    Args:
        schema: the `Config` class.
        config: an instance; None: `given` over the defaults.
        section: the recipe section that messages name.

    Raises:
        UserError: one line a mistake; or both are given.
    """
    if config is None:
        return made(schema, given, key=section)
    if given:
        raise UserError(f"{section}: a config and {', '.join(given)} beside it; give either a config or its keys")
    return made(type(config), vars(config), key=section) if is_dataclass(config) else config


def _node(value: Any) -> Node:
    """As if it stood in a file."""
    if isinstance(value, PurePath):
        value = str(value)
    elif is_dataclass(value) and not isinstance(value, type):
        value = vars(value)
    if isinstance(value, Mapping):
        value = {str(name): _node(item) for name, item in value.items()}
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        value = [_node(item) for item in value]
    return Node(value=value, where="")


def _refuse(walker: Walker) -> None:
    if walker.mistakes:
        raise UserError(*(mistake.problem for mistake in walker.mistakes))
