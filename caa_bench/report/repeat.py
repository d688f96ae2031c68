"""How to run it again: the recipe as YAML, and the commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caa_bench.config.recipe_yaml import dump


def recipe_yaml(manifest: Mapping[str, Any]) -> str:
    """The run's exact recipe, every default written out; `caa-bench compare --recipe recipe.yaml` repeats the run."""
    return f"# {COMMAND}\n{dump(nested(manifest['recipe']))}"


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys -> sections."""
    values: dict[str, Any] = {}
    for key, value in flat.items():
        if value == {}:  # a section without keys
            continue
        *sections, name = key.split(".")
        here = values
        for section in sections:
            here = here.setdefault(section, {})
        here[name] = value
    return values


COMMAND = "caa-bench compare --recipe recipe.yaml"
REPORT_COMMAND = "caa-bench report ."
