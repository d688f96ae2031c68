"""What a run is bound to, and what its folder is called: another setting, or other data, is another folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_bench.behavior import Behavior, SplitName
from caa_bench.errors import UserError
from caa_bench.files import content_key, inside

if TYPE_CHECKING:
    from caa_bench.benchmark import Benchmark


def run_folder(output_dir: str, *, recipe: str, behavior: Behavior, model: str, settings: Mapping[str, Any]) -> Path:
    """`<output_dir>/<recipe>/<behavior>-<model>-<key>`.

    Args:
        settings: what decides the results; the key is of these and of the behavior's data and prompts.

    Raises:
        UserError: output_dir is no path, or a link leads out of it.
    """
    splits: tuple[SplitName, ...] = ("train", "selection", "test", "open_ended")
    data = {name: behavior.fingerprint(name) for name in splits}
    key = content_key([dict(settings), data, dict(behavior.system_prompts)])[:8]
    try:
        return inside(inside(Path(output_dir), _part(recipe)), f"{behavior.id}-{_part(Path(model).name)}-{key}")
    except ValueError as error:
        raise UserError(f"output_dir: {output_dir!r} is no path ({error}); give a folder") from None


def settings_of(benchmark: Benchmark) -> dict[str, Any]:
    """What decides the results of a benchmark that was built without a recipe, as JSON."""
    args = asdict(benchmark.args)
    for view in ("report_to", "project", "output_dir"):
        del args[view]
    fitted = [one.settings() | asdict(one.config) for one in benchmark.interventions]
    measured = {one.name: config for one in benchmark.evaluators if (config := asdict(one.config))}
    named = {"model": benchmark.chat.name, "behavior": benchmark.behavior.id, "interventions": fitted}
    return named | measured | args


def _part(name: str) -> str:
    """Any name as a part of a file's: letters, digits, dots and dashes."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", name)[:40].strip(".-") or "run"
