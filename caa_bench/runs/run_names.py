"""What a run's folder is called: another setting, or other data, is another folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from caa_bench.behaviors.behavior import Behavior, SplitName
from caa_bench.errors import UserError
from caa_bench.storage.files import content_key, inside


def run_folder(
    output_dir: str,
    *,
    recipe: str,
    behavior: Behavior,
    model: str,
    settings: Mapping[str, Any],
    beside: Mapping[str, Any] = MappingProxyType({}),
) -> Path:
    """`<output_dir>/<recipe>/<behavior>-<model>-<key>`.

    Args:
        settings: what decides the results; the key is of these and of the behavior's data and prompts.
        beside: what else decides them and no recipe can say: loaded weights, the code of a notebook's class.

    Raises:
        UserError: output_dir is no path, or a link leads out of it.
    """
    splits: tuple[SplitName, ...] = ("train", "selection", "test", "open_ended")
    data = {name: behavior.fingerprint(name) for name in splits}
    more = [dict(beside)] if beside else []
    key = content_key([dict(settings), data, dict(behavior.system_prompts), *more])[:8]
    try:
        return inside(
            inside(Path(output_dir), _name_part(recipe)), f"{behavior.id}-{_name_part(Path(model).name)}-{key}"
        )
    except ValueError as error:
        raise UserError(f"output_dir: {output_dir!r} is no path ({error}); give a folder") from None


def _name_part(name: str) -> str:
    """Any name as a part of a file's: letters, digits, dots and dashes."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", name)[:40].strip(".-") or "run"
